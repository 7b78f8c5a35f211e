"""Codes: one pass over images, the folder of sparse codes it leaves, what is counted on them.

code_pass: images → backbone → dictionary → sparse codes on disk
sparse_codes: sparse codes of some images, sorted by latent
store: the folder of sparse codes, written whole or not at all
running_sums: rates, histograms, places, co-activation: sums per latent
exemplars: the images and patches on which each latent is strongest
"""
