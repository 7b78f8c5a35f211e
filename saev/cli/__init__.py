"""Command line: what every command shares.

command: Hydra, one-sentence errors, exit statuses
tracked_run: one MLflow run around a command, its config, a clean end
sentence: any error as one sentence
console: what a command prints when it is done
"""
