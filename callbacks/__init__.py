"""Callbacks: Lightning's, and Hydra's that makes a sweep one run.

dictionary_health: atom norms and firing shares while training
firing_figure: histogram of firing frequencies at every validation
resample: resampling of dead latents
ema: exponential moving average of the weights
rng_state: random generators in the checkpoint
throughput: tokens per second, waiting time
sweep: one MLflow parent run around the members of a sweep
"""
