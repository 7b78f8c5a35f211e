"""What stands around every command: Hydra, one run, one-sentence errors, tables on screen."""
