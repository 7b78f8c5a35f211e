"""Verdicts: from counted predictions to a judgement, and how often it errs.

tally: changes of predictions, counted per image and class
dose_curves: other change where so much of the target has changed
mean_tradeoff: the same, its mean over hypotheses
rungs: learned, and selective
verdict: effects of the arms → verdict
error_rates: how often each test rejects where there is nothing to find
calibration: latents chosen on shuffled labels
placebo: latents that nobody chose, and effects that were put there
"""
