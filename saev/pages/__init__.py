"""Static pages and figures, for every noun that has some.

render: jinja2 templates, no script, nothing from the network
site: the pages of an atlas, from plain values
notebook_figure: figures that a notebook shows by itself
figures: exemplars, firing histogram, scatter of latents
"""
