"""Baselines: the same metrics for a dictionary and for what it must beat.

methods: the dictionaries in the table: this one, fitted baselines, trained controls
image_pass: one pass over images for all of them
sums: per image, what one dictionary did; any weighting → metrics
concept_auroc: AUROC of the best single latent per concept
cells: metric × dictionary with intervals, and which metrics separate trained from random
table: fit, pass, verdicts and files of a command
"""
