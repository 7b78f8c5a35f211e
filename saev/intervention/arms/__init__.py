"""Arms: the edit of a hypothesis and its controls.

arms: the selected latents and every control
control_directions: random directions, difference of means, PCA, linear probe
matched_latents: random latents that fire as often and as strongly
injection: effects of known size, put into the model
gradcam: Grad-CAM baseline, which masks pixels
runner: one pass over the test images for every arm
"""
