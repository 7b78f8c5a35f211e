"""Intervention: controlled experiments on latents, from hypothesis to verdict.

hypothesis: the hypothesis file
hypothesis_fields: types and ranges of what it may say
setting: model, dictionary, images and head of an experiment
readout: what the head predicts, per image or per patch
splits: discovery and test images, and those of each hypothesis
choose/: the latents to edit, from discovery images alone
arms/: the edit and its controls
run_experiment: a controlled experiment, from Python
experiment: the experiment from setting to verdicts
result: what an experiment found
replication: the same hypotheses with several dictionaries
judge/: from predictions to verdicts
placebo_hypotheses: the same with latents that nobody chose
injected_effects: effects of known size for them
report/: files, figures, the page
"""
