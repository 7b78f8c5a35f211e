"""Discovery: one pass over the images that latents are chosen on.

Suffixes: b images, t tokens, p chosen tokens, d width, s latents, u units, n units kept, c columns.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor

from datamodules.images import ImageItem
from saev.editing.tokens import Encoded, encode
from saev.intervention.choose.code_table import CodeTable, LatentStats, StatsBuilder
from saev.intervention.choose.selectors import Scores, score_latents
from saev.intervention.readout import Readout
from saev.intervention.setting import Setting
from saev.sae import SparseAutoencoder

N_SAMPLE = 8
"""Images whose stream is kept."""
MAX_CODES = 2**25
"""Dense codes held at once: 128 MB."""


@dataclass
class Units:
    """The units of the discovery images that have a clear label, with the codes of one dictionary."""

    stats: LatentStats
    codes: csr_matrix
    """Units × latents: of a patch, or the mean over an image's normal patches."""


@dataclass
class Discovery:
    """What the discovery images say."""

    items: list[ImageItem]
    units: dict[str, Units]
    """Per dictionary, the trained one as "sae"."""
    labels: Int[np.ndarray, "n g"]
    image: Int[np.ndarray, " n"]
    """Which image each unit is of."""
    class_mean: Float[Tensor, "c d"]
    """Mean activation of each column's units; NaN without any."""
    rest_mean: Float[Tensor, "c d"]
    """Mean activation of all labelled units of other columns of the group."""
    covariance: Float[Tensor, "d d"]
    """Of the chosen tokens of normal norm."""
    norm_99: float
    """99th percentile of their norms."""
    rows: Float[Tensor, "n d"]
    """Activation of each unit, for baselines that need them."""
    sample: Float[Tensor, "b t d"]
    """The stream of a few images, for the sizes of edits."""
    attribution: Scores | None = None
    effects: dict[str, Scores] = field(default_factory=dict)
    """Of each dictionary's atoms, where latents are chosen by them."""
    _scores: dict[tuple[str, str, int], Scores] = field(default_factory=dict)
    _tables: dict[tuple[str, int], CodeTable] = field(default_factory=dict)

    def table(
        self, which: str, group: int, labels: Int[np.ndarray, "n g"] | None = None
    ) -> CodeTable:
        """Codes of a dictionary with the labels of one group, the true ones or others."""
        key = (which, group)
        if key not in self._tables:
            self._tables[key] = CodeTable(self.units[which].codes, self.labels[:, group])
        table = self._tables[key]
        return table if labels is None else table.relabelled(labels[:, group])

    def scores(
        self,
        which: str,
        method: str,
        group: int,
        n_columns: int,
        labels: Int[np.ndarray, "n g"] | None = None,
    ) -> Scores:
        """Scores of a selector; kept for the true labels."""
        key = (which, method, group)
        if labels is not None:
            return score_latents(method, self.table(which, group, labels), n_columns, None)
        if key not in self._scores:
            attribution = self.attribution if which == "sae" else None
            table = self.table(which, group)
            self._scores[key] = score_latents(method, table, n_columns, attribution)
        return self._scores[key]


class _Collector:
    """Adds up one pass."""

    def __init__(self, saes: dict[str, SparseAutoencoder], readout: Readout, purity: float) -> None:
        self.saes, self.readout, self.purity = saes, readout, purity
        self.stats = {which: StatsBuilder(sae.cfg.d_sae) for which, sae in saes.items()}
        self.codes: dict[str, list[csr_matrix]] = {which: [] for which in saes}
        self.labels: list[np.ndarray] = []
        self.images: list[np.ndarray] = []
        self.rows: list[Tensor] = []
        self.norms: list[np.ndarray] = []
        self.n, self.total, self.square = 0, torch.zeros(0), torch.zeros(0)

    def update(
        self, encode_by: Callable[[str], Encoded], items: list[ImageItem], first: int
    ) -> None:
        """Some images, read by one dictionary after the other, so that one's codes are held at once."""
        one = encode_by("sae")
        x_nd = one.x[one.normal].double().cpu()
        self.total = x_nd.sum(0) + (self.total if self.n else 0)
        self.square = x_nd.T @ x_nd + (self.square if self.n else 0)
        self.n += len(x_nd)
        self.norms.append(x_nd.norm(dim=-1).float().numpy())
        chosen = [self._units(one, row, item, first + row) for row, item in enumerate(items)]
        for which, stats in self.stats.items():
            batch = one if which == "sae" else encode_by(which)
            z_bps = batch.z.cpu()
            stats.update(z_bps[batch.normal.cpu()].numpy())
            for z_ps, tokens in zip(z_bps, chosen, strict=True):
                rows = self._rows(z_ps, tokens).numpy().astype(np.float32)
                self.codes[which].append(csr_matrix(rows))

    def _units(self, encoded: Encoded, row: int, item: ImageItem, number: int) -> Int[Tensor, " k"]:
        """Keeps an image's labels and activations; the tokens that its units are made of."""
        truth = self.readout.labels(item)
        label, purity = truth.label.numpy(), truth.purity.numpy()
        label = np.where(purity >= self.purity, label, -1)
        wanted = encoded.normal[row].cpu()
        if self.readout.per == "patch":
            wanted &= torch.from_numpy((label >= 0).any(1))
        tokens = wanted.nonzero()[:, 0]
        if self.readout.per == "patch":
            label = label[tokens.numpy()]
        self.labels.append(label)
        self.rows.append(self._rows(encoded.x[row].cpu(), tokens).float())
        self.images.append(np.full(len(label), number))
        return tokens

    def _rows(self, values_pd: Tensor, tokens: Int[Tensor, " k"]) -> Tensor:
        """A row per unit: a patch, or the mean over an image's patches."""
        rows = values_pd[tokens]
        return rows if self.readout.per == "patch" else rows.mean(0, keepdim=True)


@torch.no_grad()
def discover(
    setting: Setting,
    items: list[ImageItem],
    watch: Callable[[list[ImageItem], Float[Tensor, "b t d"]], None] | None = None,
) -> Discovery:
    """Reads the discovery images once; ``watch`` sees every batch and its stream at the tap, too.

    For heads that answer per patch, patch tokens must be what the dictionary reads, as unit u is
    then token u; :meth:`saev.intervention.setting.Setting.check` sees to that.
    """
    saes, tokens = setting.saes, setting.discovery_tokens
    collector = _Collector(saes, setting.readout, setting.file.support.purity)
    step = max(1, MAX_CODES // (len(tokens.positions) * setting.sae.cfg.d_sae))
    done = 0
    sample = []
    for batch in setting.batches(items, "discovery images"):
        acts = setting.tap(batch.images).float()
        sample += list(acts[: N_SAMPLE - len(sample)].cpu())
        for first in range(0, len(acts), step):
            part = acts[first : first + step]
            collector.update(
                lambda which, part=part: encode(saes[which], tokens, part),
                batch.items[first : first + step],
                done + first,
            )
        done += len(acts)
        if watch is not None:
            watch(batch.items, acts)
    return _finish(collector, items, setting.readout, torch.stack(sample))


def _finish(
    c: _Collector, items: list[ImageItem], readout: Readout, sample: Float[Tensor, "b t d"]
) -> Discovery:
    from scipy.sparse import vstack

    labels, image = np.concatenate(c.labels), np.concatenate(c.images)
    rows = torch.cat(c.rows)
    mean = c.total / c.n
    covariance = c.square / c.n - torch.outer(mean, mean)
    class_mean, rest_mean = _means(rows, labels, readout)
    return Discovery(
        items=items,
        units={
            which: Units(c.stats[which].compute(), csr_matrix(vstack(c.codes[which])))
            for which in c.saes
        },
        labels=labels,
        image=image,
        class_mean=class_mean,
        rest_mean=rest_mean,
        covariance=covariance.float(),
        norm_99=float(np.quantile(np.concatenate(c.norms), 0.99)),
        rows=rows,
        sample=sample,
    )


def _means(rows: Tensor, labels: np.ndarray, readout: Readout) -> tuple[Tensor, Tensor]:
    inside, outside = [], []
    for column in range(len(readout.concepts)):
        own = torch.from_numpy(labels[:, readout.groups.of(column)])
        inside.append(rows[own == column].mean(0))
        outside.append(rows[(own >= 0) & (own != column)].mean(0))
    return torch.stack(inside), torch.stack(outside)
