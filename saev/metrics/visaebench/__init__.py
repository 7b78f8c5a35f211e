"""The seven numbers of ViSAEBench 0.1.0 under its own definitions, each with its null and its draws.

M1 to M7 in the order of the benchmark, then what several of them share. Every function takes tensors
or arrays and gives a result whose ``value`` is the benchmark's number, and whose ``resampled`` maps
weights of images (r, n) to r values without another fit, as ``saev.stats.bootstrap`` asks. A
mean over nothing is nan, where the benchmark puts 0.

*Image codes* (n, s) are the largest code of each latent over the patches of an image. x and x̂ are
normalised as the benchmark's dictionaries ask: less the mean of each dimension, over one deviation.

morans_i: M1, do the patches of a latent cluster
morans_score: and its mean over images and latents
fvu: M2, variance that the reconstruction leaves
probe_ratio: M3, accuracy of a probe on reconstructions over that on activations
sparse_probing_curve: M4, area under accuracy over the number of latents
top_image_similarity: M5, likeness of a latent's strongest images to another backbone
transfer_score: M6, reconstruction, coverage, overlap and probing on other images
absorption: M7, classes that share their latents with their siblings
absorption_pairs: a class among its siblings, and the share that is absorbed
sibling_groups: a file of classes and parents to the groups of M7
seeded: the split of images and the draw of latents
classifier: the ranking of latents and the logistic regression
"""
