"""``open_sae``: a dictionary of any layout, from any place, as one of ours."""

from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from saev.errors import UserError
from saev.interop.belongs import backbone_identity_of, origin_place
from saev.interop.foreign import Foreign, refuse_open, to_dictionary
from saev.interop.layouts import is_ours, of_files, read_foreign
from saev.interop.objects import files_of
from saev.interop.places import Located, locate
from saev.sae import SAEConfig, SparseAutoencoder

if TYPE_CHECKING:
    from saev.interop.recorded import Recorded

TOKENS = ("patch", "class", "registers", "all")


class Opened(NamedTuple):
    """A dictionary and how it was read."""

    sae: SparseAutoencoder
    layout: str
    """"saev" for ours."""
    said: tuple[str, ...]


def open_sae(
    sae: str | Path | Any,
    *,
    recording: str | Path | None = None,
    backbone: str | None = None,
    layer: int | None = None,
    tokens: str | None = None,
    normalized: bool = False,
    device: str | torch.device | None = None,
) -> SparseAutoencoder:
    """A dictionary of any layout that is known here, as one of ours; codes and reconstructions are those of
    the library that wrote it.

    Args:
        sae: a folder or file; ``hub:owner/name#folder``; ``family:member``, a public dictionary of
            ``conf/pretrained``; or a dictionary object of SAELens, dictionary_learning or overcomplete.
        recording: a folder of activations that it belongs to: decides what a file leaves open, and says
            backbone, layer and tokens.
        backbone: a name of ``conf/backbone``, where the file says none or another.
        layer: the block after which it reads, from 0.
        tokens: "patch", "class", "registers" or "all".
        normalized: it was trained on the recording's normalised activations, (x − mean) · scale: both are
            taken in, so that it reads and returns raw ones.
        device: where to; None leaves an object where it is and reads files to the CPU.

    Raises:
        UserError: nothing there, a pickle, a damaged file, an unknown or ambiguous layout, what cannot be
            represented exactly, or a hub that does not answer.
    """
    found = opened(sae, recording, backbone, layer, tokens, normalized).sae
    return found if device is None else found.to(device)


def opened(
    sae: str | Path | Any,
    recording: str | Path | None = None,
    backbone: str | None = None,
    layer: int | None = None,
    tokens: str | None = None,
    normalized: bool = False,
) -> Opened:
    """See ``open_sae``; with what is to be known of how the file was read."""
    if tokens is not None and tokens not in TOKENS:
        raise UserError(f"tokens={tokens!r} is not one of {', '.join(TOKENS)}")
    if normalized and recording is None:
        raise UserError(
            "normalized=true needs recording=DIR: its mean and scale are what the activations were "
            "normalised with"
        )
    recorded, chosen = None, dict[str, Any]()
    if recording is not None:
        from saev.interop.recorded import read_recording

        recorded = read_recording(recording)
        chosen |= recorded.provenance
    if backbone is not None:
        chosen["backbone"] = backbone_identity_of(backbone)
    if layer is not None:
        chosen["layer"] = layer
    if tokens is not None:
        chosen["tokens"] = {"which": tokens}
    if isinstance(sae, SparseAutoencoder):
        return _ours(sae, chosen, recorded if normalized else None, "the dictionary")
    if not isinstance(sae, str | Path):
        name = f"the {type(sae).__name__}"
        foreign = _settled(of_files(files_of(sae)), recorded, name, normalized)
        return _foreign(foreign, name, chosen, None)
    located = locate(sae)
    path = located.path
    folder = path if path.is_dir() else path.parent
    if is_ours(folder) and (path.is_dir() or path.name == "weights.safetensors"):
        own = SparseAutoencoder.from_pretrained(folder)
        return _ours(own, chosen, recorded if normalized else None, str(sae))
    foreign = read_foreign(path)
    if located.public is not None and located.public.values.get("normalization") == "recorded":
        foreign = replace(foreign, open_question="normalization")
    foreign = _settled(foreign, recorded, str(sae), normalized)
    return _foreign(foreign, str(sae), chosen, located)


def _ours(
    sae: SparseAutoencoder, chosen: Mapping[str, Any], recorded: "Recorded | None", where: str
) -> Opened:
    """``recorded``: whose normalised activations it reads; None where it reads raw ones."""
    if recorded is None:
        return Opened(_with(sae, chosen), "saev", ())
    from saev.interop.recorded import check_width, composed_statistics, measured_words

    check_width(sae.cfg.d_model, recorded, where)
    found = deepcopy(sae)
    mean, scale = composed_statistics(recorded, found.mean, found.scale)
    found.set_statistics(mean, float(scale), found.cfg.max_norm)
    return Opened(_with(found, chosen), "saev", (measured_words(recorded),))


def _settled(
    foreign: Foreign, recorded: "Recorded | None", where: str, normalized: bool
) -> Foreign:
    if recorded is None:
        refuse_open(foreign, where)
        return foreign
    from saev.interop.recorded import decided, normalized_by

    if normalized:
        foreign = normalized_by(foreign, recorded, where)
    return decided(foreign, recorded, where)


def _foreign(
    foreign: Foreign, where: str, chosen: Mapping[str, Any], located: Located | None
) -> Opened:
    sae = to_dictionary(foreign, where)
    said = list(foreign.said)
    place, words = origin_place(foreign.origin)
    fields = {key: value for key, value in place._asdict().items() if value is not None}
    public = None if located is None else located.public
    if public is not None:
        fields |= _of_registry(public.values)
        words = [f"backbone, layer and tokens are those of {public.name}"]
    fields |= foreign.ours
    said += [] if {"backbone", "layer"} <= chosen.keys() else words
    # of a path its end: where things lie on this machine is nobody's business
    source = "/".join(Path(where).parts[-2:]) if located and not public else where
    recipe = {"imported": {"layout": foreign.layout, "source": source, "said": said}}
    values = {**sae.cfg.to_dict(), "recipe": recipe, **fields, **chosen}
    sae.cfg = SAEConfig.from_dict(values, where)  # what a stranger wrote is checked
    return Opened(sae, foreign.layout, tuple(said))


def _of_registry(values: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if values.get("backbone") is not None:
        fields["backbone"] = backbone_identity_of(values["backbone"], values.get("changes"))
    if values.get("layer") is not None:
        fields["layer"] = values["layer"]
    if values.get("tokens") is not None:
        fields["tokens"] = {"which": values["tokens"]}
    return fields


def _with(sae: SparseAutoencoder, fields: Mapping[str, Any]) -> SparseAutoencoder:
    """The same weights with these fields of the config; what was given stays as it is."""
    if not fields:
        return sae
    found = copy(sae)
    found.cfg = replace(sae.cfg, **fields)
    return found
