"""``python -m saev.convert sae=… out=DIR``: a dictionary of any library as one of ours, or the other way.

``python -m saev.convert list=true`` shows the public dictionaries that are known by name.
"""

from pathlib import Path

from omegaconf import DictConfig

from saev.cli.command import command
from saev.cli.console import print_next, print_table
from saev.errors import UserError


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


@command("convert")
def main(cfg: DictConfig) -> None:
    if cfg.list:
        return show_known()
    if cfg.sae is None or cfg.out is None:
        raise UserError(
            "sae=… and out=DIR say what to convert and where to; list=true shows what is known by name"
        )
    from saev.interop import convert_sae

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
