"""Statistics: tests, corrections for many tests, intervals.

tests: permutation tests (rank p, sign flips) and effect sizes
correction: false discovery rate of Benjamini and Hochberg
bootstrap: weights of images, intervals, AUROC under weights
"""
