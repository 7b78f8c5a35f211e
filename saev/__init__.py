"""Sparse autoencoders for vision models: record, train, describe, edit, and prove it by experiment.

record: images → frozen backbone → activation tars
train: activation tars → dictionary or head → evaluation
evaluate: a dictionary on held-out images, against baselines, or the members of a sweep
describe: every latent of a dictionary, scored and named, as tables and pages
compare: what two or more dictionaries share, and what one lacks
intervene: hypotheses about latents, tested in the running model against control arms
loading: SAE folder → dictionary, its backbone, its images
defaults: defaults of commands, read from conf/
errors: UserError, the error a user can act on
sae/: the maths of dictionaries, in plain torch
backbones/: frozen vision transformers behind one contract
recording/: from images to activation tars
training/: training dictionaries and heads with Lightning
metrics/: metrics with formula, source and null value
evaluation/: held-out scores, baselines, model selection
codes/: sparse codes of many images, and the pass that makes them
concepts/: what images show, and which latent predicts it
atlas/: the description of every latent, and its site
comparison/: several dictionaries on the same images
editing/: what one can do to a running model
heads/: from a backbone's output to classes
intervention/: controlled experiments, from hypothesis to verdict
stats/: tests, corrections for many tests, intervals
pages/: static pages and figures
tracking/: the MLflow store and its runs
cli/: what every command shares
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saev.backbones import load_backbone as load_backbone
    from saev.sae import SparseAutoencoder as SparseAutoencoder

_PUBLIC = {"SparseAutoencoder": "saev.sae", "load_backbone": "saev.backbones"}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: ``import saev`` alone loads nothing heavy."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
