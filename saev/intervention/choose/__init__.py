"""Choice of latents, on discovery images alone.

discovery: one pass over the discovery images
code_table: their codes, one row per unit
attribution: gradient × activation of each latent
effects: what a step along each atom does to every class's margin
selectors: the latents that predict a class
proposals: hypothesis file + discovery images → hypotheses that name latents
placebo_sets: latents that nobody chose, to test the tests
"""
