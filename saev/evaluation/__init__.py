"""Evaluation: how good a dictionary is on held-out images.

held_out: one pass: reconstruction, sparsity, fidelity, exemplars
control: the untrained dictionary that stands beside a trained one
fidelity: how much of a prediction survives replaced activations
heads: a trained head, clean, edited, and under control arms
report: metrics, tables and figures of a command, on its run
summary: the tables on screen
figures: firing frequencies, and exemplars of some latents
baselines/: the same metrics for baseline dictionaries
choice/: model selection among the runs of a sweep
visaebench/: the seven numbers of a public benchmark
"""
