"""The report of a controlled experiment.

from_config: config → experiment → report on the run
files: verdicts, every effect, a summary, for scripts
page: the page
page_text: its sentences
hypothesis_section: what it says and shows of one hypothesis
arm_tables: its tables of arms
tradeoff_figure: target change against other change
examples: pictures before and after an edit
placebo_section: error rates and power by placebo latents
figures: arms, dose–response curve, masks, bars
replication_page: what holds over several dictionaries
"""
