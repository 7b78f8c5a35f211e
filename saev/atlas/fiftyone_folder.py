"""An atlas as a folder that FiftyOne reads: a sample an image, its strongest latents, their heat-maps.

The layout is FiftyOne's ``LegacyFiftyOneDataset``, which it writes and reads without a database and
whose fields it infers, so that no version of it is needed here::

    metadata.json, samples.json    the samples and their labels
    data/000000.png                the picture as the model sees it, so that patches lie where they belong
    fields/heat_1/000000.png       codes per patch of the strongest latent, 255 its largest code anywhere

Suffixes: k latents chosen on an image, p tokens, h w patches.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from datamodules.images import ImageSource
from datamodules.progress import progress_bar
from saev.backbones import Backbone
from saev.backbones.transform import to_picture
from saev.codes.sparse_codes import CodePart, per_image
from saev.codes.store import CodeStore
from saev.errors import UserError
from saev.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd


def write_fiftyone(
    out: Path, store: CodeStore, latents: "pd.DataFrame", images: Sequence[dict[str, str]],
    source: ImageSource, backbone: Backbone, *, n_latents: int, max_rate: float,
) -> int:  # fmt: skip
    """Writes the folder, ``samples.json`` last; the number of images of the source in the atlas.

    Raises:
        UserError: the folder is not empty, or the atlas has none of the images.
    """
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; give another folder")
    items = {item.image_id: item for item in source.items}
    if not any(one["image_id"] in items for one in images):
        raise UserError(
            f"the atlas has no image of {source.name!r}; give the images it was made on, such as "
            f"{images[0]['image_id']}"
        )
    (out / "data").mkdir(parents=True)
    gh, gw = backbone.grid
    on_grid = store.n_tokens == gh * gw
    known, samples = latents.set_index("latent"), []
    tops: dict[int, float] = known["max"].to_dict()  # type: ignore[assignment]
    usable = set(known.index[known["rate_token"] <= max_rate])
    with progress_bar("writing images", len(images)) as advance:
        for number, chosen_k, code_k in strongest(store, usable, n_latents):
            advance(1)
            one = images[number]
            item = items.get(one["image_id"])
            picture = None if item is None else source.load_or_skip(item)
            if item is None or picture is None:
                continue
            place, name = f"data/{number:06d}.png", f"{number:06d}.png"
            pixels = to_picture(backbone.transform(picture), backbone.mean, backbone.std)
            Image.fromarray(pixels).save(out / place)
            sample: dict[str, Any] = {"filepath": place, "tags": [one["split"]],
                                      "image_id": one["image_id"], "source": one["source"]}  # fmt: skip
            if item.label is not None and source.class_names:
                sample["ground_truth"] = _label(source.class_names[item.label])
            labels = [
                _of_latent(known.loc[latent], int(latent), float(code))
                for latent, code in zip(chosen_k, code_k, strict=True)
            ]
            sample["latents"] = {"_cls": "Classifications", "classifications": labels}
            maps_kp = store.image_map(number, chosen_k) if on_grid else []
            for rank, (label, map_p) in enumerate(zip(labels, maps_kp, strict=False), 1):
                folder = out / "fields" / f"heat_{rank}"
                folder.mkdir(parents=True, exist_ok=True)
                _save_map(map_p.reshape(gh, gw), tops[label["latent"]], folder / name)
                said = {key: label[key] for key in ("latent", "code", "name") if key in label}
                path = f"fields/heat_{rank}/{name}"
                sample[f"heat_{rank}"] = {"_cls": "Heatmap", "map_path": path, "range": [0, 255],
                                          **said}  # fmt: skip
            samples.append(sample)
    info = {"made_by": "saev", "grid": [gh, gw], "identity": store.manifest["identity"],
            "max_rate": max_rate}  # fmt: skip
    meta = {"media_type": "image", "info": info}
    write_atomically(out / "metadata.json", json.dumps(meta, indent=2) + "\n")
    write_atomically(out / "samples.json", json.dumps({"samples": samples}) + "\n")
    return len(samples)


def strongest(
    store: CodeStore, usable: set[int], n: int
) -> Iterator[tuple[int, Int[np.ndarray, " k"], Float[np.ndarray, " k"]]]:
    """Of every image its number, the at most ``n`` usable latents of largest code on it, and the codes."""
    for span, part in store.parts():
        found = per_image(_latents_of(part), part.row, part.value, part.n_tokens)
        may = np.isin(found.latent, list(usable))
        latent, image, largest = found.latent[may], found.image[may], found.max[may]
        order = np.lexsort((latent, -largest, image))
        latent, image, largest = latent[order], image[order], largest[order]
        bounds = np.searchsorted(image, np.arange(len(span) + 1))
        for local, number in enumerate(span):
            some = slice(bounds[local], min(bounds[local] + n, bounds[local + 1]))
            yield number, latent[some], largest[some]


def _latents_of(part: CodePart) -> Int[np.ndarray, " n"]:
    return np.repeat(np.arange(part.n_latents), np.diff(part.indptr))


def _label(text: str) -> dict[str, Any]:
    return {"_cls": "Classification", "label": text}


def _of_latent(row: "pd.Series", latent: int, code: float) -> dict[str, Any]:
    """A label; the name and its confidence where the latent has one."""
    found = _label(str(latent)) | {"latent": latent, "code": code}
    if isinstance(row["name"], str):
        found["label"] = f"{latent} {row['name']}"
        found |= {"name": row["name"], "confidence": float(row["name_confidence"])}
    return found


def _save_map(codes_hw: Float[np.ndarray, "h w"], top: float, path: Path) -> None:
    shade = np.clip(codes_hw / max(top, 1e-12), 0, 1) * 255
    Image.fromarray(shade.round().astype(np.uint8)).save(path)
