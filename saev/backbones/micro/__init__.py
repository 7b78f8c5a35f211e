"""The micro ViT: its weights come with the code, benchmarks/micro_vit trains it.

model: the micro ViT, built from its files
"""
