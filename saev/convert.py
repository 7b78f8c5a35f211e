"""``python -m saev.convert sae=… out=DIR``: a dictionary of any library as one of ours, or the other way.

``python -m saev.convert list=true`` shows the public dictionaries that are known by name.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from saev.cli.command import command
from saev.cli.console import print_next, print_table
from saev.errors import UserError

if TYPE_CHECKING:
    from saev.sae import SparseAutoencoder


def show_known() -> None:
    """Prints every public dictionary with its place on the hub and what is published of it."""
    from saev.interop.registry import known

    rows = []
    for one in known():
        v = one.values
        place = v["hub"] + ("" if v.get("path") is None else f"#{v['path']}")
        layer = "" if v.get("layer") is None else str(v["layer"])
        rows.append(
            [one.name, place, str(v.get("backbone") or ""), layer, str(v.get("tokens") or "")]
        )
    print_table(
        "Public dictionaries; layers from 0", ["sae=", "hub", "backbone", "layer", "tokens"], rows
    )


def _checked_for_hub(cfg: DictConfig) -> "Callable[[SparseAutoencoder], list[str]] | None":
    """What makes ``out`` a folder for the hub, and uploads it; None where nobody asked.

    All that can be wrong of it is said before anything is written.
    """
    if cfg.private and cfg.push is None:
        raise UserError("private=true is for the repository of push=; give push=owner/name")
    if cfg.push is None and not cfg.beside:
        if cfg.metrics is not None:
            raise UserError("metrics= is for the README.md of push= or beside=; give one of them")
        return None
    from saev.interop.hub_folder import (
        check_beside,
        check_repo_id,
        metrics_beside,
        push_folder,
        write_hub_folder,
    )

    if cfg.to != "saev":
        raise UserError(
            f"push= and beside= go with to=saev, not to={cfg.to}; leave one of them out"
        )
    check_beside(cfg.beside)
    if cfg.push is not None:
        check_repo_id(cfg.push)
    metrics = metrics_beside(cfg.metrics, cfg.sae)

    def to_hub(sae: "SparseAutoencoder") -> list[str]:
        said = write_hub_folder(sae, Path(cfg.out), cfg.push, cfg.beside, metrics)
        if cfg.push is not None:
            said.append(
                f"uploaded to {push_folder(Path(cfg.out), cfg.push, cfg.private, cfg.beside)}"
            )
        return said

    return to_hub


@command("convert")
def main(cfg: DictConfig) -> None:
    if cfg.list:
        return show_known()
    if cfg.sae is None or cfg.out is None:
        raise UserError(
            "sae=… and out=DIR say what to convert and where to; list=true shows what is known by name"
        )
    from saev.interop import convert_sae

    to_hub = _checked_for_hub(cfg)
    belongs = cfg.belongs
    found = convert_sae(
        cfg.sae,
        cfg.out,
        cfg.to,
        overwrite=cfg.overwrite,
        recording=cfg.recording,
        normalized=cfg.normalized,
        backbone=belongs.backbone,
        layer=belongs.layer,
        tokens=belongs.tokens,
    )
    if to_hub is not None:
        found.said.extend(to_hub(found.sae))
    sae = found.sae.cfg
    backbone = None if sae.backbone is None else sae.backbone["name"]
    rows = [
        ["read as", found.layout], ["latents", f"{sae.d_sae:,} of width {sae.d_model}"],
        ["activation", sae.activation + ("" if sae.k is None else f", k={sae.k:g}")],
        ["normaliser of each token", sae.token_norm], ["backbone", str(backbone or "open")],
        ["layer, from 0", "open" if sae.layer is None else str(sae.layer)],
        ["tokens", "open" if sae.tokens is None else str(sae.tokens["which"])],
        *[["note", line] for line in found.said],
    ]  # fmt: skip
    print_table(f"{cfg.sae} → {cfg.out}", ["", "value"], rows)
    if cfg.to != "saev":
        return
    if None in (sae.backbone, sae.layer, sae.tokens):
        print_next([
            f"python -m saev.convert sae={cfg.sae} out={cfg.out} overwrite=true belongs.backbone=… "
            "belongs.layer=… belongs.tokens=…   before it can be put into a model"
        ])  # fmt: skip
        return
    print_next([f"python -m saev.evaluate sae={Path(cfg.out)} images=…"])


if __name__ == "__main__":
    main()
