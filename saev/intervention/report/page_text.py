"""Sentences of the page, for a reader who knows none of the code."""

# ruff: noqa: E501  (sentences of the page, kept whole)

from collections.abc import Mapping
from typing import Any

from saev.intervention.result import ExperimentResult

ARM_TEXTS: dict[str, tuple[str, str]] = {
    "selected": (
        "the chosen latents, edited as above",
        "the effect in question",
    ),
    "identity": (
        "every code replaced by itself",
        "that the machinery alone changes nothing; must be exactly 0",
    ),
    "random_latents": (
        "other latents, edited alike: at the same dose, or, where codes change as they are, ones that fire alike",
        "that any latent of this kind would do the same",
    ),
    "random_latents_same_length": (
        "random latents, as long at every token as the edit",
        "that latents of this kind do the same once they are turned up as far",
    ),
    "random_direction": (
        "a random direction, as long at every token as the edit",
        "that steering as far in any direction would do the same",
    ),
    "covariance_direction": (
        "the same, drawn along the directions in which activations vary, at right angles to the edit",
        "that steering as far along the data would do the same",
    ),
    "wrong_tokens": (
        "the same edit, only where the concept (or the latent) is absent",
        "that it does not matter where one edits",
    ),
    "shuffled_selection": (
        "latents chosen in the same way on shuffled labels",
        "that the way of choosing finds effective latents whatever the labels say",
    ),
    "diffmean": (
        "mean activation of the class minus the mean of the others, at the edit's length",
        "that no dictionary is needed",
    ),
    "linear_probe": (
        "the row of a linear probe for the class, at the edit's length",
        "that a probe does as well",
    ),
    "untrained_sae": (
        "latents chosen in the same way in a dictionary that was never trained, at their own dose",
        "that training the dictionary adds nothing",
    ),
    "untrained_same_length": (
        "the same in several untrained dictionaries, as long at every token as the edit",
        "that training the dictionary adds nothing",
    ),
    "reconstruction": (
        "the dictionary's reconstruction, unedited",
        "that replacing, not editing, is what changes predictions",
    ),
    "raw_unit": ("the single coordinate that differs most for the class", "that the model's own axes do as well"),
    "pca_direction": ("the principal component that differs most for the class", "that PCA does as well"),
    "gradcam_pixels": ("the fifth of the patches that Grad-CAM marks, greyed out", "that hiding the object does as well"),
}  # fmt: skip

SELECTOR_TEXTS = {
    "f1": "the best F1 score: where they fire is most nearly where the concept is",
    "greedy": "F1 score, one joining the others where together they fit the concept best",
    "auroc": "the area under the ROC curve of their activation against the concept",
    "average_precision": "average precision: sorted by their activation, images of the concept come first",
    "logistic": "their weight in a logistic regression on the concept",
    "attribution": "gradient × activation: what the concept’s probability would lose without them",
    "effect": "what their atoms do to the concept’s margin, among those that best predict where it is",
}

EXAMPLES_TEXTS = {
    "patch": "A row for each of the test images that show most of the concept, not picked by outcome. Each square is a patch in the colour of the class that the model predicts there; patches that the edit changed are framed.",
    "image": "A row for each of the first test images of the class, not picked by outcome: what the model thinks it shows before the edit, after it, and after the same edit of a random latent.",
}


def trade_axes(direction: str) -> tuple[str, str]:
    """What the two axes of the trade-off show."""
    other = "other predictions that change, %"
    if direction == "increase":
        return "target change: predictions that become the concept, %", other
    return "target change: predictions of the concept that are lost, %", other


def trade_text(direction: str, per: str) -> str:
    """The same in a sentence."""
    unit = "patches" if per == "patch" else "images"
    if direction == "increase":
        return f"To the right: the share of the {unit} of other classes that an edit sends to the concept, which is what it is for. Upwards: the share that it sends elsewhere, which is its price."
    return f"To the right: the share of the concept’s {unit} whose prediction an edit takes away, which is what it is for. Upwards: the share of all other {unit} whose prediction changes with them, which is its price."


def explain(outcome: ExperimentResult) -> list[str]:
    """Three paragraphs: choosing, editing, measuring."""
    setting, n = outcome.setting, outcome.plan.n
    file, per = setting.file, setting.readout.per
    latents = "one latent" if n == 1 else f"{n} latents"
    chosen = (
        "were named by hand"
        if file.latents is not None
        else f"{'was' if n == 1 else 'were'} chosen on {len(outcome.discovery.items)} discovery images by "
        f"{SELECTOR_TEXTS[file.selector.by]}"
    )
    unit = "each patch" if per == "patch" else "each image"
    return [
        f"A sparse dictionary splits the activations of a vision model into latents, each of which is active (has a "
        f"code above 0) on few tokens. For each of "
        f"{len(outcome.verdicts)} concepts, {latents} {chosen}. If a latent represents a concept, then "
        f"changing it should change what the model says of that concept and of nothing else.",
        f"That was done on {outcome.test.n_images} other images, which had no part in the choice: in the "
        f"residual stream after block {setting.layer}, {_edit_text(outcome)}; the rest of the model then "
        f"ran on as it is. {_mode_text(file.mode)} Tokens touched: {_tokens_text(file.tokens)}, and of them "
        f"only those of normal norm.",
        f"A head predicts a class for {unit}. The effect is how its predictions differ from those of the "
        f"untouched model on the same images. The same was done with the controls listed below, "
        f"{outcome.verdicts[0].n_draws} random sets of latents for every concept among them.",
    ]


def _edit_text(outcome: ExperimentResult) -> str:
    edit = outcome.setting.file.edit
    kind, where = edit.get("kind", "set"), edit.get("where", "all")
    away = (
        ", which steers the activation away from what the latent represents,"
        if kind == "set" and _amount(edit) < 0
        else ""
    )
    texts = {
        "ablate": "its code was set to 0",
        "set": f"its code was set to {_amount(edit):g} × the largest seen in discovery{away}".replace(
            "-", "−"
        ),
        "scale": f"its code was multiplied by {edit.get('factor')}",
        "add": f"{edit.get('scale')} × its largest code was added to it",
        "clamp": f"its code was kept between {edit.get('low')} and {edit.get('high')} × its largest",
    }
    place = "at every patch" if where == "all" else f"where: {where}"
    return f"{texts[kind]} {place}"


def _amount(edit: Mapping[str, Any]) -> float:
    """The amount of a ``set`` edit; 0 for others."""
    return float(edit.get("scale", 0.0))


def _mode_text(mode: str) -> str:
    if mode == "replace":
        return "The activations were replaced by the edited reconstruction."
    return "Only the difference that the edit makes was added: what the dictionary cannot reconstruct stayed."


def _tokens_text(tokens: str | tuple[str, ...]) -> str:
    kinds = [tokens] if isinstance(tokens, str) else list(tokens)
    return " and ".join(kinds)


def metric_text(metric: str, direction: str, per: str) -> str:
    """What the effect is, in one or two sentences."""
    unit = "patches" if per == "patch" else "images"
    if direction == "increase":
        texts = {
            "target_change": f"share of the {unit} of other classes that are sent to the concept.",
            "selective_change": f"share of the {unit} of other classes that are sent to the concept, minus the mean share sent to other concepts.",
            "probability": f"mean rise of the concept’s probability on the {unit} of other classes.",
        }
        return texts[metric]
    texts = {
        "target_change": f"share of the concept’s {unit} whose prediction changes.",
        "selective_change": f"share of the concept’s {unit} whose prediction changes, minus the mean of that share over the other concepts.",
        "probability": f"mean fall of the concept’s probability on its {unit}.",
        "accuracy": f"fall of the share of the concept’s {unit} that are predicted right.",
    }
    return texts[metric]
