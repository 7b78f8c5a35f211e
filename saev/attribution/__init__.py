"""Attribution: where on the input a latent's code comes from, which need not be where it fires.

attribute: one latent on one image → signed maps of pixels and patches
latent_probe: the latent as a function of images: pre-activations to differentiate, codes to measure
references: what an image is compared with: its blurred self, the mean colour
relevance: gradients that conserve relevance through attention, norms and activations
order_curves: the code as patches are inserted or deleted in some order, and areas under it
"""
