"""Several dictionaries over the same images: matches, concepts one lacks, drives, the page."""
