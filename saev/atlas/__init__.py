"""The description of every latent: one pass over images, scores, names, pages."""
