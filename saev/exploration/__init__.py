"""Exploration: a person looks, clicks, edits, and sees what the model does next to control edits.

explorer: everything that a screen asks for; all state is in arguments and returns
view_state: what is on a screen, as a link, as JSON, as Python
answers: what the explorer answers with
pictures: images by key; uploads, checked and kept in memory
crops: crops of pictures around a patch
own_readout: what predicts: any head, with labels or without
own_setting: dictionary, model, head and images that belong together
start_up: how often and how strongly each latent fires, before anybody looks
checked_edits: what a page sends, made to fit the dictionary and the picture
model_answers: codes of an image, and predictions from edited streams
latent_rows: rankings of the latents in a picture
causes: where on the input a latent's code comes from
known_verdicts: rungs that latents reached in earlier experiments
side_by_side: what two dictionaries see in the same picture
latent_search: latents by words, concept, example patches, similarity
edit_arms: an edit and its controls
edit_outcome: what changes, and past which controls
edit_run: an edit with its controls, in two forward passes
hypothesis_text: from an edit on a screen to the file of a hypothesis
hypothesis_run: a hypothesis tested while somebody waits
python_script: from an edit on a screen to a script
app/: the page in a browser
"""
