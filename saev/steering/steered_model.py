"""A steered model: a backbone with edits of codes inside, to run, save and load.

Suffixes: b images, h w pixels, g patches of the grid, s latents.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from datamodules.images import ImageSource
from saev.backbones import Backbone, BackboneOutput
from saev.backbones.from_spec import backbone_from_spec
from saev.editing.code_edits import CodeEdit
from saev.editing.edits import edit_to_dict
from saev.errors import UserError
from saev.heads import backbone_identity
from saev.loading import check_same_weights, rebuild_backbone
from saev.sae import SparseAutoencoder
from saev.steering.files import read_folder, write_steering
from saev.steering.steered_tap import Pictures, SteeredTap, make_tap, pixels_of


class Steering(nn.Module):
    """A backbone whose forward pass is edited at one or more layers.

    Edits that change no code change no bit of the output. Dictionary and backbone are held, not
    copied.

    Args:
        backbone: the frozen model.
        taps: at different layers.

    Raises:
        ValueError: two of them at one layer, or none.
    """

    def __init__(self, backbone: Backbone, taps: Sequence[SteeredTap]) -> None:
        super().__init__()
        layers = [tap.layer for tap in taps]
        if not layers or len(set(layers)) < len(layers):
            raise ValueError(f"taps are at layers {layers}; give one or more, at different layers")
        self.backbone = backbone
        self.taps = nn.ModuleList(taps)

    @classmethod
    def of(
        cls, sae: SparseAutoencoder | str | Path, backbone: str | Backbone | nn.Module,
        edits: CodeEdit | Sequence[CodeEdit], *, largest: Float[Tensor, " s"] | None = None,
        images: ImageSource | Pictures | None = None, tokens: str | Sequence[str] | None = None,
        layer: int | None = None, mode: str = "add",
    ) -> "Steering":  # fmt: skip
        """A backbone with edits of one dictionary's codes; :meth:`also` adds another layer.

        Args:
            sae: the dictionary, its folder, or its id on the hub.
            backbone: the model it was trained on: a backbone, a name of ``conf/backbone``, or a model
                object.
            edits: from :mod:`saev.editing.edits`, applied in order.
            largest: per latent the largest code seen, of which the edits' amounts are multiples.
            images: to measure it on. With neither, it is measured on up to 200 held-out images of
                the source that the dictionary says it was trained on; edits that give codes need
                none of this.
            tokens: kinds that may be touched; None: those that the dictionary reads.
            layer: for a dictionary that does not say which it reads.
            mode: "add" keeps the reconstruction error; "replace" puts the edited reconstruction in
                the place of every chosen token.

        Raises:
            UserError: the dictionary belongs to another model, or does not say where it reads; no
                images to measure on; an edited latent that never fires there.
            ValueError: a latent that the dictionary does not have, or another mode.
        """
        model, tap = make_tap(sae, backbone, edits, largest, images, tokens, layer, mode)
        return cls(model, [tap])

    def also(
        self, sae: SparseAutoencoder | str | Path, edits: CodeEdit | Sequence[CodeEdit], *,
        largest: Float[Tensor, " s"] | None = None, images: ImageSource | Pictures | None = None,
        tokens: str | Sequence[str] | None = None, layer: int | None = None, mode: str = "add",
    ) -> "Steering":  # fmt: skip
        """This model with edits at another layer too; arguments as for :meth:`of`."""
        _, tap = make_tap(sae, self.backbone, edits, largest, images, tokens, layer, mode)
        return Steering(self.backbone, [*self.each_tap(), tap])

    def each_tap(self) -> Iterator[SteeredTap]:
        """The edited layers, in the order in which they were given."""
        for tap in self.taps:
            assert isinstance(tap, SteeredTap)
            yield tap

    def forward(self, images: Pictures, mask: Bool[Tensor, "b g"] | None = None) -> BackboneOutput:
        """The edited forward pass.

        ``mask`` marks patches, row-major, for edits whose ``where`` is "mask" or "off_mask".
        """
        pixels = pixels_of(images, self.backbone)
        edits = {tap.layer: partial(tap.edit(), mask=tap.mask_of(mask)) for tap in self.each_tap()}
        return self.backbone(pixels, edits)

    def save(self, directory: str | Path) -> Path:
        """Writes a folder that :meth:`load` reads: config, edits and dictionaries; no pickles.

        The backbone is written down, not copied: its name, where its weights are and their SHA-256.
        """
        folder, tensors = Path(directory), {}
        for tap in self.each_tap():
            tap.sae.save_pretrained(folder / _name(tap.layer))
            found = tap.tensors()
            tensors |= {f"{_name(tap.layer)}.{name}": tensor for name, tensor in found.items()}
        taps = [tap.to_dict() for tap in self.each_tap()]
        write_steering(
            folder, {"backbone": backbone_identity(self.backbone), "taps": taps}, tensors
        )
        return folder

    @classmethod
    def load(
        cls, directory: str | Path, backbone: str | Backbone | nn.Module | None = None,
        weights: str | None = None,
    ) -> "Steering":  # fmt: skip
        """Reads what :meth:`save` wrote; its outputs equal the saved model's bit for bit.

        Args:
            backbone: where the model was an object of the user's, which no name rebuilds.
            weights: of the backbone, where they have moved.

        Raises:
            UserError: nothing there, a damaged file, another format, or other weights.
        """
        folder = Path(directory)
        config, tensors = read_folder(folder)
        try:
            model = _backbone(config["backbone"], backbone, weights)
            taps = []
            for content in config["taps"]:
                name = _name(content["layer"])
                own = {
                    k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")
                }
                sae = SparseAutoencoder.from_pretrained(folder / name)
                taps.append(SteeredTap.from_dict(content, own, sae, model))
            return cls(model, taps)
        except UserError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder} holds files that do not make a steered model ({error}); save it again"
            ) from error

    def export(self, path: str | Path, images: Pictures | None = None) -> Path:
        """Writes the model, edits inside, as one file that needs no saev to run.

        ``.pt2`` is torch.export's (``torch.export.load(path).module()(images)``), ``.onnx`` that of
        ONNX (``pip install 'saev-lightning[onnx]'``). Input is ``images`` (b, 3, h, w), any b, as
        ``backbone.transform`` makes them, and ``mask`` (b, patches) of booleans where an edit asks for
        one; output is a dictionary: ``tokens`` (b, t, d), ``pooled`` (b, e) and, where the model has a
        classifier, ``logits`` (b, c). It runs in the precision and, as .pt2, on the device of the model.

        Args:
            images: on which the file's outputs are compared with this model's before it is kept; None:
                noise, on which an edit that waits for a latent to fire may do nothing.

        Raises:
            UserError: another ending, packages that are missing, something that cannot be traced, or
                outputs that differ by more than a thousandth of the largest.
        """
        from saev.steering.exported import export_steered

        if images is None:
            shape = (3, 3, *self.backbone.image_size)
            images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        pixels = pixels_of(images, self.backbone)
        return export_steered(self.backbone, list(self.each_tap()), Path(path), pixels)

    def __repr__(self) -> str:
        lines = []
        for tap in self.each_tap():
            unit = f"; largest codes: {tap.largest_from}" if tap.largest_from else ""
            lines.append(f"  layer {tap.layer}: {', '.join(map(_in_words, tap.edits))}{unit}")
        return "\n".join([f"Steering({self.backbone.family} {self.backbone.name}", *lines]) + ")"


def _name(layer: int) -> str:
    """Of a layer's dictionary in the folder, and of its tensors."""
    return f"layer{layer}"


def _backbone(
    made_from: Mapping[str, Any], backbone: str | Backbone | nn.Module | None, weights: str | None
) -> Backbone:
    spec = dict(made_from["spec"])
    if backbone is not None:
        found = rebuild_backbone(spec, backbone)
    else:
        changes = {} if weights is None else {"weights": weights}
        found = backbone_from_spec(spec, "the steered model", **changes)
    check_same_weights("the steered model was made from", made_from, found)
    return found


def _in_words(edit: CodeEdit) -> str:
    content = edit_to_dict(edit)
    latents = content["latents"]
    few = ", ".join(map(str, latents[:5])) + (", …" if len(latents) > 5 else "")
    amounts = {k: v for k, v in content.items() if k not in ("kind", "latents", "where", "unit")}
    words = [content["kind"], few, *(f"{key}={value:g}" for key, value in amounts.items())]
    if content.get("unit") == "code":
        words.append("in codes")
    if content["where"] != "all":
        words.append(f"where {content['where']}")
    return " ".join(words)
