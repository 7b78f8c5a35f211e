"""Statistics: tests, corrections for many tests, intervals.

tests: permutation tests (rank p, sign flips) and effect sizes
adjustment: effects freed of what features of the latents explain, to be ranked
correction: false discovery rate of Benjamini and Hochberg
bootstrap: weights of images, intervals, AUROC under weights
tradeoff: other change where an edit reaches a target change
shares: rejection rates with intervals
hierarchy: means over seeds and images
"""
