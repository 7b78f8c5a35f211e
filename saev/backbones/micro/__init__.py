"""The micro ViT: its weights come with the code, benchmarks/micro_vit trains it.

micro_vit: the micro ViT, built from its files
"""
