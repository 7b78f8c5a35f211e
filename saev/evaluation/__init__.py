"""How good a dictionary is on held-out images: reconstruction, predictions, tables, figures."""
