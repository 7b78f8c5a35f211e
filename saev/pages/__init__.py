"""Static pages and figures: the site, templates, vendored scripts."""
