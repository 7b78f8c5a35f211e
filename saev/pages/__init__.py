"""Static pages and figures, for every noun that has some.

render: jinja2 templates, no script, nothing from the network
site: the pages of an atlas, from plain values
figures: exemplars, firing histogram, scatter of latents
"""
