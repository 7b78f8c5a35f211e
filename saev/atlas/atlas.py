"""Queries on a finished atlas: latents for words, patches, sets of images, and their neighbours.

Suffixes: b images, s latents, p patches.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from saev.codes.store import CodeStore
from saev.concepts.pair_scores import score_pairs
from saev.concepts.ranked_codes import CodeEntries
from saev.errors import UserError
from saev.files import (
    Check,
    a_list,
    a_text,
    a_whole,
    an_object,
    check_fields,
    read_parquet,
    read_whole,
)

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from saev.backbones import Backbone
    from saev.sources import Images

COLUMNS = {
    "latents": ("latent", "name", "name_confidence", "rate_image"),
    "concepts": ("latent", "concept", "split", "f1"),
    "exemplars": ("latent", "role", "rank", "image_id"),
    "names": ("latent", "proposer", "rank", "name", "confidence"),
    "coactivation": ("latent", "kind", "rank", "neighbour"),
}
"""Tables of an atlas, and the columns without which none is opened."""
NUMBERS = {
    "latent", "rank", "neighbour", "name_confidence", "rate_image", "f1", "confidence",
}  # fmt: skip
TABLES = tuple(COLUMNS)
MOST_JSON_BYTES = 1 << 27
"""Of the list of images: some hundred bytes for each."""
_IMAGE = an_object({"image_id": a_text()}, more=True)


class Atlas:
    """The tables of a ``latents/`` folder, and its codes where they were kept."""

    def __init__(self, folder: Path, tables: "dict[str, pd.DataFrame]") -> None:
        self.folder = folder
        self.latents, self.concepts = tables["latents"], tables["concepts"]
        self.exemplars, self.names = tables["exemplars"], tables["names"]
        self.neighbours = tables["coactivation"]
        self.images: list[dict[str, str]] = _read_json(folder / "images.json", a_list(_IMAGE, 1))
        grid = an_object({"grid": a_list(a_whole(1, 10_000), 2, 2)}, more=True)
        rows, columns = _read_json(folder / "atlas.json", grid)["grid"]
        self.grid: tuple[int, int] = rows, columns

    def __repr__(self) -> str:
        named = int(self.latents["name"].notna().sum())
        return (
            f"Atlas({len(self.latents):,} latents, {named:,} named, on {len(self.images):,} images: "
            f"{str(self.folder)!r})"
        )

    @classmethod
    def open(cls, folder: str | Path) -> "Atlas":
        """Reads what ``python -m saev.describe`` wrote; UserError where it is not there."""
        folder = Path(folder)
        for name in TABLES:
            if not (folder / f"{name}.parquet").is_file():
                raise UserError(
                    f"{folder} holds no {name}.parquet; run python -m saev.describe first"
                )
        from pandas.api.types import is_numeric_dtype

        tables = {name: read_parquet(folder / f"{name}.parquet") for name in TABLES}
        for name, columns in COLUMNS.items():
            if missing := [column for column in columns if column not in tables[name]]:
                raise UserError(
                    f"{folder / name}.parquet has no column {missing[0]}; describe again"
                )
            texts = [c for c in NUMBERS & set(columns) if not is_numeric_dtype(tables[name][c])]
            if texts and len(tables[name]):
                raise UserError(
                    f"{folder / name}.parquet has no numbers in {min(texts)}; describe again"
                )
        return cls(folder, tables)

    def store(self) -> CodeStore:
        """The sparse codes; UserError where they were not kept."""
        return CodeStore.open(self.folder / "codes")

    def position(self, image: int | str) -> int:
        """Number of an image in the atlas, from its id; UserError where it is not there."""
        if isinstance(image, str):
            for index, one in enumerate(self.images):
                if one["image_id"] == image:
                    return index
        elif 0 <= image < len(self.images):
            return image
        raise UserError(
            f"image {image} is not in the atlas, which has {len(self.images):,} images, "
            f"first {self.images[0]['image_id']}"
        )

    def search(self, words: str) -> "pd.DataFrame":
        """Latents whose name, proposed names or concepts contain all the words, best first.

        Columns: latent, name, score (confidence of the name or F1 of the concept on the test split),
        why, rate_image.
        """
        import pandas as pd

        wanted = _plain(words).split()
        if not wanted:
            raise UserError("query is empty; give one or more words")
        hits: dict[int, tuple[float, str]] = {}

        def consider(latent: Any, text: Any, score: Any, why: str) -> None:
            plain = _plain(str(text or ""))
            score = 0.0 if np.isnan(score) else score
            if all(word in plain for word in wanted) and score >= hits.get(latent, (-1.0, ""))[0]:
                hits[latent] = (score, why)

        for row in self.names[self.names["rank"] == 0].itertuples():
            consider(row.latent, row.name, row.confidence, f"{row.proposer}: {row.name}")
        tests = self.concepts[self.concepts["split"] == "test"]
        for row in tests.itertuples():
            consider(row.latent, row.concept, row.f1, f"predicts {row.concept} (F1 {row.f1:.2f})")
        for row in self.latents[self.latents["name"].notna()].itertuples():
            consider(row.latent, row.name, row.name_confidence, f"named {row.name}")
        order = sorted(hits, key=lambda latent: -hits[latent][0])
        known = self.latents.set_index("latent").loc[order]
        return pd.DataFrame(
            {
                "latent": order,
                "name": [None if pd.isna(name) else name for name in known["name"]],
                "score": [hits[latent][0] for latent in order],
                "why": [hits[latent][1] for latent in order],
                "rate_image": known["rate_image"].to_numpy(),
            }
        )

    def for_concept(self, concept: str, n: int = 10) -> "pd.DataFrame":
        """The latents that predict a concept best on the discovery split, with their test scores; the
        name may have spaces for "=" and "_"."""
        names = self.concepts["concept"].map(_plain)
        rows = self.concepts[(self.concepts["split"] == "test") & (names == _plain(concept))]
        if rows.empty:
            known = ", ".join(sorted(self.concepts["concept"].unique())[:8])
            raise UserError(f"the atlas knows no concept {concept!r}; it knows {known}, …")
        return rows.sort_values(["source", "kind", "rank_f1"]).groupby(["source", "kind"]).head(n)

    def for_patches(
        self, image: int | str, patches: Sequence[int], n: int = 10, max_rate: float = 0.1
    ) -> "pd.DataFrame":
        """What is this patch? Latents by their summed code over some patches of one image.

        Latents that fire on more than ``max_rate`` of all tokens are left out: they say nothing of
        this patch. ``share`` is the part of the latent's code on the image that lies in the patches.
        Source: the semantic query of Stevens et al. 2025, Fig. 3.
        """
        store = self.store()
        index = self.position(image)
        part, local = divmod(index, store.images_per_part)
        if not patches or not all(0 <= p < store.n_tokens for p in patches):
            raise UserError(f"patches must be numbers from 0 to {store.n_tokens - 1}")
        codes = store.read(part)
        latent = np.repeat(np.arange(store.n_latents), np.diff(codes.indptr))
        own = codes.row // store.n_tokens == local
        marked = own & np.isin(codes.row % store.n_tokens, list(patches))
        inside = np.bincount(latent[marked], codes.value[marked], store.n_latents)
        whole = np.bincount(latent[own], codes.value[own], store.n_latents)
        inside[self.latents["rate_token"].to_numpy() > max_rate] = 0
        best = (-inside).argsort(kind="stable")[:n]
        best = best[inside[best] > 0]
        found = self.latents.set_index("latent").loc[
            best, ["name", "name_confidence", "rate_token"]
        ]
        found.insert(0, "sum", inside[best])
        found.insert(1, "share", inside[best] / whole[best])
        return found.reset_index()

    def contrast(
        self, positive: Sequence[int], negative: Sequence[int], n: int = 10
    ) -> "pd.DataFrame":
        """Latents that fire on the positive images and not on the negative ones, by AUROC.

        The semantic probe of Stevens et al. 2025: what do these pictures share that those lack?
        Chosen on the very images it is scored on: a hypothesis, to be tested on others.
        """
        if not positive or not negative or set(positive) & set(negative):
            raise UserError("give positive and negative images, none of them both")
        from scipy import sparse

        store = self.store()
        images = np.array([*positive, *negative])
        labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))][:, None]
        auroc, precision = np.full(store.n_latents, 0.5), np.zeros(store.n_latents)
        for first, last in store.chunks():
            found = store.image_codes(first, last)
            codes = CodeEntries(found.latent - first, found.image, found.max, last - first,
                          len(store.image_ids)).on(images)  # fmt: skip
            scores = score_pairs(codes, sparse.csr_matrix(labels))
            auroc[first:last], precision[first:last] = scores.auroc[:, 0], scores.ap[:, 0]
        best = (-auroc).argsort(kind="stable")[:n]
        rows = self.latents.set_index("latent").loc[best, ["name", "name_confidence", "rate_image"]]
        rows.insert(0, "auroc", auroc[best])
        rows.insert(1, "ap", precision[best])
        return rows.reset_index()

    def to_fiftyone(
        self, out: str | Path, images: "Images", backbone: "Backbone | nn.Module | str", *,
        n_latents: int = 5, max_rate: float = 0.1,
    ) -> Path:  # fmt: skip
        """Writes a folder that FiftyOne reads, a sample an image; FiftyOne itself is not needed.

        ``fo.Dataset.from_dir(dataset_dir=out, dataset_type=fo.types.LegacyFiftyOneDataset)`` opens it.
        ``latents`` are an image's strongest latents with ``latent``, ``code`` (its largest on the
        image), ``name`` and ``confidence``; ``heat_1`` … are their codes per patch, 255 being the
        latent's largest code anywhere; ``ground_truth``, ``image_id``, ``source`` and the split as a tag.

        Args:
            images: of the atlas: a source, its name in ``conf/images``, or a folder.
            backbone: the model of the dictionary, which cuts pictures into patches.
            n_latents: strongest latents of each image.
            max_rate: latents that fire on more than this share of all tokens are left out.

        Raises:
            UserError: a folder that is not empty, no such images, or an atlas without its codes.
        """
        from saev.atlas.fiftyone_folder import write_fiftyone
        from saev.backbones import as_backbone
        from saev.sources import open_images

        store, model, source = self.store(), as_backbone(backbone), open_images(images)
        if model.grid != self.grid:
            raise UserError(
                f"the atlas has {self.grid[0]} × {self.grid[1]} patches and {model.name} has "
                f"{model.grid[0]} × {model.grid[1]}; give the model it was made with"
            )
        write_fiftyone(Path(out), store, self.latents, self.images, source, model,
                       n_latents=n_latents, max_rate=max_rate)  # fmt: skip
        return Path(out)

    def important_but_unnamed(self, n: int = 20) -> "pd.DataFrame":
        """Latents without a name, by the share of the reconstruction's energy that is theirs."""
        unnamed = self.latents[self.latents["name"].isna() & ~self.latents["dead"]]
        return unnamed.sort_values("importance", ascending=False).head(n)

    def nearest(self, latent: int, kind: str = "atom") -> "pd.DataFrame":
        """Neighbours by cosine of atoms ("atom") or by firing together ("coactivation")."""
        if kind not in ("atom", "coactivation"):
            raise UserError(f"kind={kind!r}; choose atom or coactivation")
        if not 0 <= latent < len(self.latents):
            raise UserError(f"latent {latent} is not in the atlas, which has {len(self.latents):,}")
        rows = self.neighbours
        return rows[(rows["latent"] == latent) & (rows["kind"] == kind)].sort_values("rank")


def _plain(text: str) -> str:
    return text.casefold().replace("=", " ").replace("_", " ")


def _read_json(path: Path, check: Check) -> Any:
    try:
        found = json.loads(read_whole(path, "describe again", MOST_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is missing or damaged; describe again") from error
    check_fields(found, check, str(path), "describe again")
    return found


def patches_in(
    box: tuple[float, float, float, float], grid: tuple[int, int]
) -> Int[np.ndarray, " p"]:
    """Patches whose centre lies in a box (left, top, right, bottom, each 0 to 1), row-major."""
    left, top, right, bottom = box
    rows: Float[np.ndarray, " h"] = (np.arange(grid[0]) + 0.5) / grid[0]
    columns: Float[np.ndarray, " w"] = (np.arange(grid[1]) + 0.5) / grid[1]
    inside = ((rows >= top) & (rows <= bottom))[:, None] & ((columns >= left) & (columns <= right))[
        None
    ]
    return inside.ravel().nonzero()[0]
