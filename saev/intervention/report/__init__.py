"""The report of a controlled experiment.

from_config: config → experiment → report on the run
files: verdicts, every effect, a summary, for scripts
page: the page
page_text: its sentences
examples: pictures before and after an edit
placebo_section: error rates and power by placebo latents
figures: arms, dose–response curve, masks, bars
"""
