"""Controlled experiments: hypotheses, arms, passes over the images, verdicts, the report."""
