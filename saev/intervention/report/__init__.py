"""What a controlled experiment leaves: files, figures, the page."""
