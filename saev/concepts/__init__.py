"""What images show, and which latent predicts it."""
