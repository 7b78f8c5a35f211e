"""One sweep, many dictionaries: which lie on the front, which to take, and why."""
