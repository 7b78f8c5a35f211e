"""Names for latents: candidates, proposers, and which are kept."""
