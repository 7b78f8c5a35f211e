"""Do dictionaries find features that are known? ``make bench-recovery``

Activations are made of known sparse features in superposition, with what makes vision activations
awkward: a large mean, a few massive dimensions, heavy-tailed strengths, features that come together
and features that only come with a parent. Each variant and baseline is fitted to them; atoms are
matched to features one to one.

Shapes: `n` tokens, `f` features, `d` width, `s` latents.
"""

import argparse
import logging
import math
import time
import warnings
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from saev.defaults import CONF_DIR
from saev.sae import SparseAutoencoder
from saev.sae.baselines import KINDS, fit_baseline
from saev.sae.threshold import calibrate_threshold_

VARIANTS: dict[str, dict[str, Any]] = {
    "topk": {},
    "multi_topk": {"objective": {"factor": 3}},
    "batch_topk": {},
    "matryoshka": {},
    "archetypal": {"decoder": {"n_points": 1024}},
    "jump_relu": {},
    "jump_relu_tanh": {"objective": {"coefficient": 0.5}},
    "gated": {},
    "relu": {"objective": {"coefficient": 0.5}},
    "relu_free_norm": {"objective": {"coefficient": 0.5}},
    "p_anneal": {"objective": {"coefficient": 0.5}},
    "frozen_decoder": {},
}
"""What of each YAML is another size here."""


class World:
    """Known features and tokens made of them.

    Feature i is on with probability ∝ 1/(i+1)^0.6, capped at 0.5. Even ones among the first half are
    parents of the second half: a child is only on where its parent is. Neighbours (4j, 4j+1) share
    half of their firing. Strengths are log-normal.
    """

    def __init__(self, n_features: int, width: int, mean_l0: float, seed: int = 0) -> None:
        # Far from the seeds of dictionaries: random atoms from the same one would be the features.
        self.generator = torch.Generator().manual_seed(10_000 + seed)
        raw = F.normalize(self._normal(n_features, width), dim=1)
        self.massive = torch.ones(width)
        self.massive[torch.randperm(width, generator=self.generator)[: max(1, width // 32)]] = 6.0
        self.writes_fd = raw * self.massive
        self.features_fd = F.normalize(self.writes_fd, dim=1)
        self.mean_d = 5 * self.massive * self._normal(width) / math.sqrt(width)
        rates = (torch.arange(n_features) + 1.0) ** -0.6
        rates = rates[torch.randperm(n_features, generator=self.generator)]
        self.rates_f = (rates * mean_l0 / rates.sum()).clamp_max(0.5)
        half = n_features // 2
        self.parents = torch.full((n_features,), -1)
        self.parents[half:] = 2 * torch.randint(
            half // 2, (n_features - half,), generator=self.generator
        )

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def draw(self, n_tokens: int) -> tuple[Tensor, Tensor]:
        """Activations (n, d) and strengths (n, f), 0 where a feature is off."""
        n_features = len(self.rates_f)
        chance = torch.rand(n_tokens, n_features, generator=self.generator)
        first = torch.arange(0, n_features - 1, 4)
        together = torch.rand(n_tokens, len(first), generator=self.generator) < 0.5
        chance[:, first + 1] = torch.where(together, chance[:, first], chance[:, first + 1])
        on = chance < self.rates_f
        children = (self.parents >= 0).nonzero().flatten()
        parents = self.parents[children]
        # A child keeps its rate: it fires on rate_child / rate_parent of its parent's tokens.
        share = (self.rates_f[children] / self.rates_f[parents]).clamp_max(1.0)
        on[:, children] = on[:, parents] & (chance[:, children] < share)
        strengths = torch.where(on, (0.5 * self._normal(n_tokens, n_features)).exp(), 0.0)
        noise = 0.02 * self._normal(n_tokens, len(self.mean_d)) * self.massive
        return strengths @ self.writes_fd + self.mean_d + noise, strengths


class Recovery(NamedTuple):
    """How well a dictionary found the features; 1 is perfect everywhere."""

    cosine: float
    """Mean cosine of feature and matched atom, matched one to one by the Hungarian method, in the
    normalised units of the dictionary, which rescale all dimensions alike."""
    found: float
    """Share of features with a cosine above 0.9."""
    precision: float
    """Of the tokens on which a matched latent fires, those on which its feature is on (mean)."""
    recall: float
    """Of the tokens on which a feature is on, those on which its latent fires (mean)."""
    explained_variance: float
    l0: float


@torch.no_grad()
def score(sae: SparseAutoencoder, world: World, n_tokens: int = 4000) -> Recovery:
    """Scores on the next tokens of the world, which nobody was fitted to."""
    x, strengths = world.draw(n_tokens)
    z = sae.encode(x)
    cosines_fs = world.features_fd @ F.normalize(sae.W_dec, dim=1).T
    features, latents = linear_sum_assignment(-cosines_fs.numpy())
    matched = cosines_fs[features, latents]
    on, fires = strengths[:, features] > 0, z[:, latents] > 0
    both = (on & fires).sum(0).float()
    x_hat = sae.decode(z)
    return Recovery(
        # A dictionary with fewer atoms than features misses the others.
        cosine=float(matched.sum() / len(cosines_fs)),
        found=float((matched > 0.9).sum() / len(cosines_fs)),
        precision=float((both / fires.sum(0).clamp_min(1)).mean()),
        recall=float((both / on.sum(0).clamp_min(1)).mean()),
        explained_variance=float(1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()),
        l0=float((z > 0).sum(1).float().mean()),
    )


class _Batch(NamedTuple):
    acts: Tensor


class _Stream(IterableDataset):
    def __init__(self, world: World, batch_size: int) -> None:
        self.world, self.batch_size = world, batch_size

    def __iter__(self):
        while True:
            yield _Batch(self.world.draw(self.batch_size)[0])


def train(
    name: str, world: World, d_sae: int, k: int, n_steps: int, batch_size: int, lr: float = 3e-3
) -> SparseAutoencoder:
    """One variant as its YAML says, at this size."""
    torch.manual_seed(0)
    with initialize_config_dir(str(CONF_DIR), version_base=None):
        cfg = compose("train", [f"model={name}"]).model
    cfg = OmegaConf.merge(cfg, VARIANTS[name], {"optimizer": {"lr": lr}})
    assert isinstance(cfg, DictConfig)
    cfg.d_sae = d_sae
    cfg.dead_after_tokens = 50 * batch_size
    if cfg.get("k") is not None:
        cfg.k = k
    if name in ("relu", "relu_free_norm"):
        cfg.objective.warmup_steps = n_steps // 10
    width = len(world.mean_d)
    module = instantiate(cfg, d_model=width)
    pool = world.draw(8192)[0]
    mean = pool.mean(0)
    scale = float((width / (pool - mean).square().sum(1).mean()).sqrt())
    module.set_data_statistics(mean, scale, None)
    module.initialize_from(pool)
    trainer = L.Trainer(
        max_steps=n_steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
        limit_val_batches=0, max_epochs=-1,
    )  # fmt: skip
    trainer.fit(module, DataLoader(_Stream(world, batch_size), batch_size=None))
    sae = module.export()
    if sae.cfg.activation == "batch_topk":
        calibrate_threshold_(sae, [pool])
    return sae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--l0", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--only", nargs="*", default=[*VARIANTS, *KINDS])
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    d_sae = args.features * 3 // 2
    reference: SparseAutoencoder | None = None
    columns = ("cosine", "found", "precision", "recall", "explained_variance", "l0")
    print("| dictionary | cosine | found | precision | recall | EV | L0 | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.only:
        world, start = World(args.features, args.width, args.l0), time.monotonic()
        if name in VARIANTS:
            sae = train(name, world, d_sae, args.l0, args.steps, args.batch_size)
            reference = reference or sae
        else:
            reference = reference or train("topk", world, d_sae, args.l0, 1, 64)
            sae = fit_baseline(name, reference, world.draw(8192)[0])
        found = score(sae, world)
        cells = " | ".join(f"{getattr(found, column):.3f}" for column in columns)
        print(f"| {name} | {cells} | {time.monotonic() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
