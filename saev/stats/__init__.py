"""Statistics: tests, corrections for many tests, intervals.

tests: rank p, sign flips, intervals and effect sizes
"""
