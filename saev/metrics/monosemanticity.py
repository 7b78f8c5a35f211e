"""Monosemanticity: similarity of the images of one latent, as seen by an encoder.

Suffixes: s latents, n stored codes, b images, e embedding.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class Monosemanticity(NamedTuple):
    """One value per latent; nan where fewer than two images fire it."""

    ms: Float[Tensor, " s"]
    """Weighted mean similarity of pairs of images, Σ r_nm·s_nm / Σ r_nm over n < m."""
    chance: Float[Tensor, ""]
    """Mean similarity of all pairs of images: where a latent that fires at random stands."""
    corrected: Float[Tensor, " s"]
    """(ms − chance) / (1 − chance): 0 at chance, 1 for identical images."""
    support: Float[Tensor, " s"]
    """Effective number of images A²/Q. Two images of one class by luck give a high score, so
    nothing below about 10 should be trusted."""
    deviation: Float[Tensor, " s"]
    """Standard deviation of ``ms`` over all ways to deal the same codes out to other images."""
    skewness: Float[Tensor, " s"]
    """Of ``ms`` over the same, where many images fire the latent; it is positive."""

    @property
    def null(self) -> Float[Tensor, " s"]:
        """95 % level of ``ms`` with images shuffled: that of a gamma (Pearson III) distribution with
        this mean, deviation and skewness.

        2 to 5 % of true permutations exceed it in the mean over latents, at 30 to 1,000 images and a
        support of 4 to 150; a normal distribution's level 4 to 7 %.
        """
        return self.chance + self.deviation * gamma_level(self.skewness)


class MonosemanticityScore(Metric):
    """MS_k = Σ_{n<m} ã_nk ã_mk ⟨e_n, e_m⟩ / Σ_{n<m} ã_nk ã_mk, in one pass.

    ã is the code scaled to [0, 1] per latent and e the unit embedding of an image. With the smallest
    code 0 (any sparse latent), A = Σa, Q = Σa², P = Σ a·e, the double sum is (‖P‖² − Q)/(A² − Q);
    the largest code cancels. All states are sums, so shards and ranks add up exactly.

    Null value: ``chance`` is the exact mean of the score when the images are permuted and
    ``deviation`` its exact standard deviation (:func:`permutation_variance`), so no permutation is
    ever drawn; ``skewness`` is that of ‖P‖² for a normally distributed P (:func:`normal_skewness`).
    Dead latents and those of a single image are nan.
    Source: Pach et al. 2025 (arXiv 2504.02821); the *weighted mean* of their released code. Dividing
    by the number of pairs instead gives values hundreds of times smaller and is another metric.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    n: Tensor
    total_s: Tensor
    squares_s: Tensor
    cubes_s: Tensor
    fourths_s: Tensor
    weighted_se: Tensor
    sum_e: Tensor
    gram_ee: Tensor

    def __init__(self, n_latents: int, width: int) -> None:
        super().__init__()
        self.add_state("n", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name, shape in (
            ("total_s", (n_latents,)),
            ("squares_s", (n_latents,)),
            ("cubes_s", (n_latents,)),
            ("fourths_s", (n_latents,)),
            ("weighted_se", (n_latents, width)),
            ("sum_e", (width,)),
            ("gram_ee", (width, width)),
        ):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        latent_n: Int[Tensor, " n"],
        image_n: Int[Tensor, " n"],
        code_n: Float[Tensor, " n"],
        embedding_be: Float[Tensor, "b e"],
    ) -> None:
        """Adds images: their positive codes as triples, and an embedding each (any length)."""
        unit_be = torch.nn.functional.normalize(embedding_be.double(), dim=-1)
        code_n = code_n.double()
        n_latents = len(self.total_s)
        self.n += len(unit_be)
        self.sum_e += unit_be.sum(0)
        self.gram_ee += unit_be.T @ unit_be
        self.total_s.index_add_(0, latent_n, code_n)
        self.squares_s.index_add_(0, latent_n, code_n.square())
        self.cubes_s.index_add_(0, latent_n, code_n**3)
        self.fourths_s.index_add_(0, latent_n, code_n**4)
        codes_sb = torch.sparse_coo_tensor(
            torch.stack([latent_n, image_n]),
            code_n,
            (n_latents, len(unit_be)),
            check_invariants=False,
        )
        self.weighted_se += torch.sparse.mm(codes_sb, unit_be)

    def compute(self) -> Monosemanticity:
        pairs = self.total_s.square() - self.squares_s
        # a single image leaves A² − Q = 0 up to rounding
        known = pairs > 1e-9 * self.total_s.square()
        similar = self.weighted_se.square().sum(-1) - self.squares_s
        ms = torch.where(known, similar / pairs, torch.nan)
        chance = (self.sum_e.square().sum() - self.n) / (self.n * (self.n - 1))
        support = torch.where(self.squares_s > 0, self.total_s.square() / self.squares_s, 0.0)
        variance = permutation_variance(
            _Moments(
                pairs,
                self.squares_s.square() - self.fourths_s,
                self.total_s.square() * self.squares_s
                - 2 * self.total_s * self.cubes_s
                + self.fourths_s,
            ),
            _Moments(
                self.sum_e.square().sum() - self.n,
                self.gram_ee.square().sum() - self.n,
                self.sum_e @ self.gram_ee @ self.sum_e - 2 * self.sum_e.square().sum() + self.n,
            ),
            self.n,
        )
        deviation = torch.where(known, variance.clamp_min(0).sqrt() / pairs, torch.nan)
        mean_e = self.sum_e / self.n
        covariance_ee = self.gram_ee / self.n - torch.outer(mean_e, mean_e)
        skewness = normal_skewness(self.total_s, self.squares_s, mean_e, covariance_ee, self.n)
        return Monosemanticity(
            ms, chance, (ms - chance) / (1 - chance), support, deviation, skewness
        )


class _Moments(NamedTuple):
    """What the variance asks of a symmetric matrix without its diagonal."""

    total: Tensor  # Σ_ij X_ij
    squares: Tensor  # Σ_ij X_ij²
    rows: Tensor  # Σ_i (Σ_j X_ij)²


def permutation_variance(x: _Moments, y: _Moments, n: Tensor) -> Tensor:
    """Variance of Σ_ij X_ij·Y_π(i)π(j) over all permutations π of ``n`` > 3 places.

    Two pairs of places coincide, share one place or none; each case is uniform over such pairs.
    Source: Mantel 1967.
    """
    same = n * (n - 1)
    share = same * (n - 2)
    apart = share * (n - 3)

    def disjoint(m: _Moments) -> Tensor:
        return m.total.square() - 4 * m.rows + 2 * m.squares

    second = (
        2 * x.squares * y.squares / same
        + 4 * (x.rows - x.squares) * (y.rows - y.squares) / share
        + disjoint(x) * disjoint(y) / apart
    )
    return second - (x.total * y.total / same).square()


def normal_skewness(
    total_s: Float[Tensor, " s"],
    squares_s: Float[Tensor, " s"],
    mean_e: Float[Tensor, " e"],
    covariance_ee: Float[Tensor, "e e"],
    n: Float[Tensor, ""],
) -> Float[Tensor, " s"]:
    """Skewness of ‖P‖² for a normal P with the moments of Σ a·e under permutation, mean A·ē and
    covariance v·C with v = (Q − A²/n)·n/(n − 1); 0 where codes do not vary.

    κ_r = 2^(r−1)·(r − 1)!·(tr Σ^r + r·μᵀΣ^(r−1)μ). The codes of a latent that few images fire are not
    normal in sum; their true skewness is then smaller.
    Source: Mathai & Provost 1992, Quadratic Forms in Random Variables.
    """
    v_s = (squares_s - total_s.square() / n).clamp_min(0) * n / (n - 1)
    pushed_e = covariance_ee @ mean_e
    along, twice = mean_e @ pushed_e, pushed_e @ pushed_e
    square_ee = covariance_ee @ covariance_ee
    second_s = v_s * 2 * square_ee.trace() + 4 * total_s.square() * along
    third_s = v_s * 8 * (square_ee * covariance_ee).sum() + 24 * total_s.square() * twice
    # both lack a factor: κ₂ one v, κ₃ two
    return torch.where(second_s > 0, v_s.sqrt() * third_s / second_s**1.5, 0.0)


def gamma_level(skewness: Float[Tensor, " s"], level: float = 0.95) -> Float[Tensor, " s"]:
    """Quantile of Pearson's type III with mean 0 and deviation 1; the normal one at skewness 0."""
    from scipy import stats

    return torch.from_numpy(stats.pearson3.ppf(level, skewness.numpy())).to(skewness)


def clarity(embedding_ne: Float[np.ndarray, "n e"]) -> float:
    """Mean cosine over pairs of a latent's strongest images, n/(n − 1)·(‖mean ê‖² − 1/n).

    MS with equal weights over the top images; null value: the mean cosine of random images. nan for
    fewer than two. Source: SemanticLens (Dreyer et al. 2025).
    """
    n = len(embedding_ne)
    if n < 2:
        return float("nan")
    unit = embedding_ne / np.linalg.norm(embedding_ne, axis=1, keepdims=True)
    return float(n / (n - 1) * (np.square(unit.mean(0)).sum() - 1 / n))


def redundancy(centre_se: Float[np.ndarray, "s e"]) -> float:
    """Mean over latents of the largest cosine of its images' mean embedding to another latent's.

    0 for latents that show unrelated things; the mean embedding of all images must be subtracted
    first, or every pair looks similar. Source: SemanticLens (Dreyer et al. 2025).
    """
    unit = centre_se / np.maximum(np.linalg.norm(centre_se, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    return float(cosine.max(1).mean())


class Uniqueness(NamedTuple):
    """Overlap of the latents' strongest images."""

    share_overlapping: float
    """Pairs of latents with an image in common, of all pairs."""
    n_near_duplicates: int
    """Pairs with Jaccard index above ½."""
    unique: float
    """Latents that are in no such pair, as a share."""


def uniqueness(top_sn: list[list[int]]) -> Uniqueness:
    """From each latent's list of strongest images, through an inverted index (not all pairs).

    J = |T_k ∩ T_l| / |T_k ∪ T_l|. Null value: for n random images of N, J > 0 in about n²/N of the
    pairs. Source: Pach et al. 2025, top 16.
    """
    from scipy import sparse

    used = [row for row in top_sn if row]
    if len(used) < 2:
        return Uniqueness(float("nan"), 0, float("nan"))
    lengths = np.array([len(row) for row in used])
    images, columns = np.unique(
        np.concatenate([np.asarray(row) for row in used]), return_inverse=True
    )
    indptr = np.concatenate([[0], lengths.cumsum()])
    member = sparse.csr_matrix(
        (np.ones(len(columns), np.int32), columns, indptr), shape=(len(used), len(images))
    )
    shared = sparse.triu(member @ member.T, k=1).tocoo()
    jaccard = shared.data / (lengths[shared.row] + lengths[shared.col] - shared.data)
    twin = jaccard > 0.5
    in_pair = np.unique(np.concatenate([shared.row[twin], shared.col[twin]]))
    n_pairs = len(used) * (len(used) - 1) / 2
    return Uniqueness(shared.nnz / n_pairs, int(twin.sum()), 1 - len(in_pair) / len(used))
