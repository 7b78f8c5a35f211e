"""The explorer's page in a browser, on Gradio (the extra ``app``).

desk: steps a person takes, each from one view state to the next
markup: small pieces of HTML, everything escaped
picture: the gallery, and the picture with its patch grid
latent_panels: the ranking of latents, and one latent opened
outcome_panel: what an edit does, beside its controls
compare_panel: two dictionaries on one picture
exports: the view as a PNG
panels: what the page shows of a view state
layout: the page's parts
steps: what happens when a part is used
wiring: which step follows which use
verdicts: reports that were made, and their addresses
guard: which paths of the server answer
serve: the server, until it is closed
notebook: ``saev.explore(...)``
"""
