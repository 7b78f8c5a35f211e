"""Statistics: tests, corrections for many tests, intervals.

tests: rank p, sign flips, effect sizes
correction: false discovery rate: Benjamini–Hochberg, q within a family
bootstrap: bootstrap of images: weights, 95 % intervals, weighted AUROC
"""
