"""Sparse codes of many images: the pass that makes them, the folder that holds them, what is counted."""
