"""Verdicts: from counted predictions to a judgement, and how often it errs.

tally: changes of predictions, counted per image and class
verdict: effects of the arms → verdict
calibration: false positives under shuffled labels and for random latents
"""
