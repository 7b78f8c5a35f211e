"""Summaries of each latent without labels: sums, samples, monosemanticity, neighbours.

Suffixes: b images, s latents, e embedding.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saev.atlas.samples import Samples, centred, collect_samples
from saev.atlas.settings import AtlasSettings
from saev.atlas.spatial_coherence import SpatialCoherence
from saev.codes.images import ImageList, pixel_batches
from saev.codes.running_sums import LatentStatistics
from saev.codes.sparse_codes import ImageCodes, per_image
from saev.codes.store import CodeStore
from saev.metrics.geometry import geometry
from saev.metrics.monosemanticity import MonosemanticityScore, clarity

if TYPE_CHECKING:
    import pandas as pd

    from saev.backbones import Backbone
    from saev.sae import SparseAutoencoder

MIN_SUPPORT = 10
"""Effective images below which a monosemanticity score says nothing (two images of one class by
luck score high)."""
MIN_FIRED = 10
"""Tokens a latent must fire on before its estimated co-activation is more than noise."""


def labels_per_image(images: ImageList) -> Int[np.ndarray, " b"]:
    """Class of every image, counted through all sources; −1 without one."""
    offset, offsets = 0, {}
    for name, source in images.sources.items():
        offsets[name] = offset
        offset += len(source.class_names or [])
    return np.array(
        [-1 if item.label is None else offsets[name] + item.label for name, item in images.entries]
    )


def statistics_of(store: CodeStore, labels: Int[np.ndarray, " b"], seed: int) -> LatentStatistics:
    """Sums over all parts of the store."""
    statistics = LatentStatistics(
        store.n_latents, store.n_tokens, int(labels.max(initial=-1)) + 1, seed
    )
    for span, part in store.parts():
        statistics.update(part, span.start, labels[span.start : span.stop])
    return statistics


def embedding_of(
    store: CodeStore,
    images: ImageList,
    embedder: "Backbone | None",
    atlas: AtlasSettings,
    device: Any,
) -> Float[np.ndarray, "b e"]:
    """Of every image, by another model where one is given: a model's similarity of its own latents'
    images is partly circular."""
    if embedder is None:
        return store.embeddings()
    path = store.folder / f"embedding-{embedder.weights['sha256'] or embedder.name}.npy"
    if path.is_file():
        return np.load(path)
    embedder.to(device)
    everything = list(range(len(images.entries)))
    rows = []
    batches = pixel_batches(images, everything, embedder, atlas.batch_size, atlas.num_workers)
    for pixels, whole in batches:
        with torch.no_grad():
            pooled = embedder(pixels.to(device)).pooled.float().cpu()
        rows.append((pooled * whole[:, None]).numpy())
    found = np.concatenate(rows)
    np.save(path, found)
    return found


class Summaries(NamedTuple):
    """One walk over all codes."""

    samples: list[Samples]
    columns: dict[str, Float[np.ndarray, " s"]]
    """Of ``latents.parquet``."""
    chance: float
    """Where the monosemanticity score of a random latent stands."""


def summarize(
    store: CodeStore,
    embedding_be: Float[np.ndarray, "b e"],
    *,
    class_token: int | None = None,
    coherence: SpatialCoherence | None = None,
    n_top: int = 16,
    seed: int = 0,
) -> Summaries:
    """Samples and similarity of every latent's images, a range of latents at a time.

    Args:
        class_token: place of the class token among the chosen tokens, None where it is not chosen.
        coherence: where patches are; None leaves out what it measures.
    """
    similarity = ImageSimilarity(embedding_be)
    centred_be = centred(embedding_be)
    samples = []
    for first, last in store.chunks():
        latent, row, value = store.token_codes(first, last)
        codes = per_image(latent, row, value, store.n_tokens)
        on_class = None
        if class_token is not None:
            mine = row % store.n_tokens == class_token
            on_class = per_image(latent[mine], row[mine], value[mine], store.n_tokens)
        samples.append(
            collect_samples(codes, range(first, last), centred_be, on_class_token=on_class,
                            n_top=n_top, seed=seed)
        )  # fmt: skip
        similarity.add(codes, first, last)
        if coherence is not None:
            coherence.add(latent, row, value, first, last)
    columns, chance = similarity.columns()
    if coherence is not None:
        columns |= coherence.columns()
    columns["clarity"] = _clarity(samples, embedding_be, store.n_latents)
    return Summaries(samples, columns, chance)


class ImageSimilarity:
    """Monosemanticity of ranges of latents; images without an embedding (broken ones) are left out."""

    def __init__(self, embedding_be: Float[np.ndarray, "b e"]) -> None:
        self.keep: Bool[np.ndarray, " b"] = np.linalg.norm(embedding_be, axis=1) > 0
        self.place = self.keep.cumsum() - 1
        self.shown = torch.from_numpy(embedding_be[self.keep])
        self.chance = float("nan")
        self.found: list[tuple[np.ndarray, ...]] = []

    def add(self, codes: ImageCodes, first: int, last: int) -> None:
        """The next latents, ``first`` to ``last`` (excluded)."""
        mine = self.keep[codes.image]
        metric = MonosemanticityScore(last - first, self.shown.shape[1])
        metric.update(
            torch.from_numpy(codes.latent[mine] - first),
            torch.from_numpy(self.place[codes.image[mine]]),
            torch.from_numpy(codes.max[mine]),
            self.shown,
        )
        one = metric.compute()
        self.chance = float(one.chance)
        self.found.append(tuple(v.numpy() for v in (one.ms, one.corrected, one.null, one.support)))

    def columns(self) -> tuple[dict[str, Float[np.ndarray, " s"]], float]:
        """Score, corrected score, 95 % null and support of all latents added, and the chance level."""
        names = ("ms", "ms_corrected", "ms_null", "ms_support")
        joined = [np.concatenate(column) for column in zip(*self.found, strict=True)]
        return dict(zip(names, joined, strict=True)), self.chance


def _clarity(
    samples: list[Samples], embedding_be: Float[np.ndarray, "b e"], n_latents: int
) -> Float[np.ndarray, " s"]:
    """Mean cosine of the strongest images of each latent; nan below two."""
    found = np.full(n_latents, np.nan)
    known = np.linalg.norm(embedding_be, axis=1) > 0
    for one in samples:
        strongest = np.array([role == "max" for role in one.role], bool)
        latent, image = one.latent[strongest], one.image[strongest]
        bounds = np.flatnonzero(np.diff(latent, prepend=-1, append=n_latents))
        for begin, end in pairwise(bounds):
            shown = image[begin:end]
            found[latent[begin]] = clarity(embedding_be[shown[known[shown]]])
    return found


def neighbours(
    table: "pd.DataFrame", sae: "SparseAutoencoder", statistics: LatentStatistics, n: int = 8
) -> "pd.DataFrame":
    """Nearest latents by atom and by firing on the same tokens; adds nearest_cosine, opposite_cosine,
    opposite and importance to the table of latents."""
    import pandas as pd

    weights = sae.W_dec.detach().float().cpu()
    atoms = torch.nn.functional.normalize(weights, dim=-1)
    angles = geometry(atoms)
    table["nearest_cosine"] = angles.nearest.numpy()
    table["opposite"] = angles.opposite_at.numpy()
    table["opposite_cosine"] = angles.opposite.numpy()
    energy = statistics.squares_s * weights.square().sum(1).numpy()
    table["importance"] = energy / max(energy.sum(), 1e-12)
    alive = (statistics.fired_s > 0).nonzero()[0]
    rows = []
    for block in np.array_split(alive, max(1, len(alive) // 1024)):
        cosine = (atoms[block] @ atoms.T).numpy()
        together = statistics.coactivation(block)
        together[:, statistics.fired_s < MIN_FIRED] = -np.inf
        for kind, similarity in (("atom", cosine), ("coactivation", together)):
            similarity[np.arange(len(block)), block] = -np.inf
            best = np.argpartition(-similarity, min(n, similarity.shape[1] - 1), axis=1)[:, :n]
            for row, latent in enumerate(block):
                order = best[row][(-similarity[row, best[row]]).argsort(kind="stable")]
                rows += [
                    (int(latent), kind, rank, int(other), float(similarity[row, other]))
                    for rank, other in enumerate(order)
                    if similarity[row, other] > -np.inf
                ]
    return pd.DataFrame(rows, columns=["latent", "kind", "rank", "neighbour", "likeness"])
