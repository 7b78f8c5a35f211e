"""Data: images, scenes with known concepts, recorded activations and features.

images/: image sources behind one contract
scenes/: procedural images with known concepts
activations/: activation tars, and the token stream out of them
features/: recorded final features with their labels
"""
