"""What is run for each hypothesis: the edit and its controls, in one pass over the test images."""
