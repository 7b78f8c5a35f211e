"""The embedded micro ViT: its weights, model card and the script that trains it."""
