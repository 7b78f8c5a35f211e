"""Exploration: a person looks, clicks, edits, and sees what the model does next to control edits.

explorer: everything that a screen asks for; all state is in arguments and returns
view_state: what is on a screen, as a link, as JSON, as Python
answers: what the explorer answers with
pictures: images by key; uploads, checked and kept in memory
crops: crops of pictures around a patch
own_readout: what predicts: any head, with labels or without
start_up: how often and how strongly each latent fires, before anybody looks
latent_rows: rankings of latents, on a picture or in a search
edit_arms: an edit and its controls
edit_outcome: from the edited streams to what changes
app/: the page in a browser
"""
