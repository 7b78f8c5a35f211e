"""Images → frozen backbone → activation tars."""
