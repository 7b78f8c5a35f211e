"""Comparison: several dictionaries on the same images.

compare_dictionaries: a comparison, from Python
comparison: all of it: codes, matches, concepts, power, effects across layers
members: the dictionaries and their codes
strata: images that are alike in all that makes any two latents fire together
matching: which latents of two dictionaries correspond
matches: the partner of every latent in every other dictionary
presence: whether a dictionary has a latent for a concept, and the power to say it lacks one
lacking: concepts that each dictionary has, and that one lacks
drives: causal effect of earlier latents on later ones
figures: figures, from the tables
page: the page
"""
