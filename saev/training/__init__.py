"""Training dictionaries and heads with Lightning."""
