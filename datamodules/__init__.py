"""Data: images, scenes with known concepts, recorded activations and features.

workers: how the worker processes of a data loader start
progress: progress bars, and the switch that hides them
patches: from a class per pixel to a class per patch
images/: image sources behind one contract
scenes/: procedural images with known concepts
activations/: activation tars, and the token stream out of them
features/: recorded final features with their labels
"""
