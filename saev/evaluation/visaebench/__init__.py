"""ViSAEBench: the seven numbers of a public benchmark on any images, beside dictionaries that learned
nothing.

settings: what the node ``visaebench`` holds
benchmark_arms: the dictionaries in the table: this one, untrained ones, raw units, PCA
image_features: what the seven numbers read, in the benchmark's normalisation
patch_pass: one pass over images for all dictionaries
seven_numbers: the seven numbers of one dictionary, with their nulls and draws
benchmark_table: passes, numbers and verdicts of a command
benchmark_files: the rows, ``visaebench.json``, metrics
figures: value, interval and null of every number
page: the page, and the table on screen
leaderboard: several dictionaries on the same images
"""
