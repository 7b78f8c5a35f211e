"""Sparse autoencoders for vision models: record, train, describe, edit, and prove it by experiment.

record: images → frozen backbone → activation tars
train: activation tars → dictionary or head → evaluation
evaluate: a dictionary on held-out images, against baselines, or the members of a sweep
describe: every latent of a dictionary, scored and named, as tables and pages
compare: what two or more dictionaries share, and what one lacks
intervene: hypotheses about latents, tested in the running model against control arms
convert: a dictionary of any library as one of ours, or the other way
explore: a page in the browser to look, click, edit and see what changes next to controls
loading: SAE folder → dictionary, its backbone, its images
sources: image sources by name, folder or object
defaults: defaults of commands, read from conf/
errors: UserError, the error a user can act on
files: SHA-256 of files, files that appear whole, checks of what a stranger wrote
stopping: Ctrl-C and SIGTERM, seen at the next batch
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
interop/: dictionaries of other libraries in and out
steering/: a steered model, to run, save, load and export
attribution/: where on the input a latent's code comes from
heads/: from a backbone's output to classes
intervention/: controlled experiments, from hypothesis to verdict
exploration/: look at what fires, edit it, see what changes next to controls
stats/: tests, corrections for many tests, intervals
pages/: static pages and figures
tracking/: the MLflow store and its runs, other loggers
cli/: what every command shares
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saev.atlas.atlas import Atlas as Atlas
    from saev.atlas.describe_dictionary import describe_dictionary as describe_dictionary
    from saev.attribution.attribute import attribute as attribute
    from saev.backbones import load_backbone as load_backbone
    from saev.codes.encode_images import encode_images as encode_images
    from saev.comparison.compare_dictionaries import compare_dictionaries as compare_dictionaries
    from saev.editing import edits as edits
    from saev.editing.tokens import Tokens as Tokens
    from saev.evaluation.report import evaluate_dictionary as evaluate_dictionary
    from saev.exploration.app.notebook import explore as explore
    from saev.intervention.hypothesis import Hypothesis as Hypothesis
    from saev.intervention.run_experiment import run_experiment as run_experiment
    from saev.loading import open_dictionary as open_dictionary
    from saev.recording.record_activations import record_activations as record_activations
    from saev.sae import SparseAutoencoder as SparseAutoencoder
    from saev.steering import Steering as Steering
    from saev.training.fit import fit_dictionary as fit_dictionary

_PUBLIC = {
    "Atlas": "saev.atlas.atlas",
    "Hypothesis": "saev.intervention.hypothesis",
    "SparseAutoencoder": "saev.sae",
    "Steering": "saev.steering",
    "Tokens": "saev.editing.tokens",
    "attribute": "saev.attribution.attribute",
    "compare_dictionaries": "saev.comparison.compare_dictionaries",
    "describe_dictionary": "saev.atlas.describe_dictionary",
    "edits": "saev.editing",
    "encode_images": "saev.codes.encode_images",
    "evaluate_dictionary": "saev.evaluation.report",
    "explore": "saev.exploration.app.notebook",
    "fit_dictionary": "saev.training.fit",
    "load_backbone": "saev.backbones",
    "open_dictionary": "saev.loading",
    "record_activations": "saev.recording.record_activations",
    "run_experiment": "saev.intervention.run_experiment",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: ``import saev`` alone loads nothing heavy."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
