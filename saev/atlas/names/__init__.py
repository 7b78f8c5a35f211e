"""Names for latents: candidates, proposers, evidence.

candidate_names: names whose presence in an image the model itself can judge
proposers: every proposer of names, run on one dictionary
naming: what a name rests on, and when there is none
tree_places: where the strongest images of a latent lie in a tree of classes
"""
