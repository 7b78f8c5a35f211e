"""Codes: one pass over images, the folder of sparse codes it leaves, what is counted on them.

images: images of several sources as one list, in batches
code_pass: images → backbone → dictionary → sparse codes on disk
part_builder: batches of dense codes → one part of sparse codes
sparse_codes: sparse codes of some images, sorted by latent
store: the folder of sparse codes, written whole or not at all
running_sums: rates, histograms, places, co-activation: sums per latent
largest_codes: the largest code of each latent, the unit of edits' amounts
encode_images: codes of images in memory, the Python call
encoded_images: what that call returns: a sparse matrix, and the files it is saved as
exemplars: the images and patches on which each latent is strongest
"""
