"""The atlas as a site that opens from disk.

overview: tables → site: overview, latents, concepts, pictures
latents: a page and a JSON file per latent
evidence: where on a latent's strongest image its code comes from
concepts: a page per concept, and their list
gallery: exemplars as tiles, every picture written once
contact_sheets: exemplars of several latents as one PNG
"""
