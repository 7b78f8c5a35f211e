"""The atlas: what every latent of a dictionary is, in tables and pages.

settings: the nodes `atlas` and `naming` of conf/describe.yaml
describe_dictionary: the atlas of a dictionary, from Python
description: the whole description, from codes on disk to tables and names
summaries: per latent, without labels: sums, samples, similarity, neighbours
spatial_coherence: whether a latent's patches lie together
samples: images that show a latent: the strongest, every tenth, near misses
best_concepts: every concept against every latent, and the best of each
probes: sparse probes, coalitions, OOD scores
stability: which atoms other seeds find again, next to three nulls
names/: candidate names, who proposes them, which are kept
baseline_table: metric × this SAE, an untrained one, raw units, PCA, random
tables: the parquet tables that scripts read
atlas: a finished atlas, opened to be asked
fiftyone_folder: an atlas as a folder that FiftyOne reads
query: the question language of `query="…"`
pages/: the site that opens from disk
"""
