"""One dictionary beside baselines: the same metrics, and which of them tell trained from random."""
