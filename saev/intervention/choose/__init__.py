"""Which latents a hypothesis edits, chosen on the discovery images alone."""
