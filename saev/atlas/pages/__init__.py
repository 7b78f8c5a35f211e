"""The atlas as a site that opens from disk."""
