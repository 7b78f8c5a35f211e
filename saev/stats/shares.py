"""Shares with 95 % intervals: how often a test rejects.

Suffixes: n trials, k clusters.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped
from scipy import special


class ShareInterval(NamedTuple):
    """A share and its 95 % interval; nan without a trial."""

    share: float
    low: float
    high: float


def binomial_interval(n_hits: int | float, n_trials: int | float) -> ShareInterval:
    """Exact for independent trials (Clopper & Pearson 1934); numbers need not be whole."""
    if n_trials == 0:
        return ShareInterval(math.nan, math.nan, math.nan)
    misses = n_trials - n_hits
    low = special.betaincinv(n_hits, misses + 1, 0.025) if n_hits > 0 else 0.0
    high = special.betaincinv(n_hits + 1, misses, 0.975) if misses > 0 else 1.0
    return ShareInterval(n_hits / n_trials, float(low), float(high))


def clustered_share(
    hit_n: Bool[np.ndarray, " n"], cluster_n: Shaped[np.ndarray, " n"]
) -> ShareInterval:
    """Share of hits where the trials of a cluster (hypotheses that share a latent) go together.

    The exact interval at the number of independent trials that would leave the same variance as the
    clusters do; where all trials agree, at the number of clusters. Percentiles of a bootstrap over
    clusters fail at the small shares that matter here: for a true 5 % in 80 clusters of 1 to 5 trials
    they end below it in 13 % of 400 simulations, this interval in 6 % (for 20 %: 4 and 2 %).

    Source: Korn & Graubard 1998, Survey Methodology 24.
    """
    _, cluster_n = np.unique(cluster_n, return_inverse=True)
    hits_k, trials_k = np.bincount(cluster_n, hit_n), np.bincount(cluster_n)
    n_trials, n_clusters = len(hit_n), len(trials_k)
    share = float(hits_k.sum() / n_trials) if n_trials else math.nan
    if n_clusters < 2 or share in (0.0, 1.0):
        return binomial_interval(share * n_clusters, n_clusters)._replace(share=share)
    squares = float(np.square(hits_k - share * trials_k).sum())
    variance = squares * n_clusters / (n_clusters - 1) / n_trials**2
    # the variance is itself estimated from k clusters
    wider = special.stdtrit(n_trials - 1, 0.975) / special.stdtrit(n_clusters - 1, 0.975)
    effective = share * (1 - share) / variance * wider**2 if variance > 0 else n_trials
    effective = min(float(effective), float(n_trials))
    return binomial_interval(share * effective, effective)._replace(share=share)
