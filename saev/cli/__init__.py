"""Command line: what every command shares.

command: Hydra, one-sentence errors, exit statuses
refusals: what is refused before anything runs: a foreign experiment, a value out of range
tracked_run: one MLflow run around a command, its config, a clean end
sentence: any error as one sentence
results: metrics.json, written and logged; the device of a command
shared_launcher: ``hydra/launcher=shared``: members of a sweep on one stream
lockstep: jobs in one thread, each going on where another waits
console: what a command prints when it is done
"""
