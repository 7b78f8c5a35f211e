"""Intervention: controlled experiments on latents, from hypothesis to verdict.

hypothesis: the hypothesis file
setting: model, dictionary, images and head of an experiment
checks: preconditions, checked before any image is read
readout: what the head predicts, per image or per patch
splits: discovery and test images, and those of each hypothesis
choose/: the latents to edit, from discovery images alone
arms/: the edit and its controls
experiment: the experiment from setting to verdicts
judge/: from predictions to verdicts
report/: files, figures, the page
"""
