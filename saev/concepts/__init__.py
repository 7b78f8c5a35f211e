"""Concepts: what images show, and which latent predicts it.

annotations: labels per image or per patch, from sources and tables
ranked_codes: entries of sparse codes, and their ranks within each latent
pair_scores: exact F1, AUROC and AP of every latent × concept
best_latents: the best latent of each concept: chosen on some images, tested on others
known_features: how well a dictionary found features that are known
max_null: permutation null of the best of many
"""
