"""Sparse probing: logistic probes on one latent, unions of a few.

Suffixes: n rows, s latents, c concepts, k chosen latents.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

STEPS = 30
RIDGE = 1e-4
"""Of the slope: a latent that separates perfectly has no finite one."""


class LogisticProbe(NamedTuple):
    """p(y = 1 | a) = σ(w·a + b), one value per pair."""

    r: Float[np.ndarray, " m"]
    """1 − cross-entropy / cross-entropy of the prevalence alone: 0 for a useless latent, 1 for a
    perfect one (Probe R of arXiv 2511.17735)."""
    slope: Float[np.ndarray, " m"]
    bias: Float[np.ndarray, " m"]


def logistic_probes(
    value_mn: Float[np.ndarray, "m n"], label_mn: Bool[np.ndarray, "m n"]
) -> LogisticProbe:
    """Newton fits of many one-dimensional logistic regressions at once, one row per pair.

    Null value of R: 0 from below on new rows; slightly above 0 on the rows it was fitted on. Codes
    are scaled to unit deviation inside, so the ridge means the same for every latent. Rows with one
    class only give nan.
    """
    y = label_mn.astype(float)
    spread = value_mn.std(1, keepdims=True)
    x = (value_mn - value_mn.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)
    rate = y.mean(1)
    known = (rate > 0) & (rate < 1)
    safe = np.clip(rate, 1e-9, 1 - 1e-9)
    w, b = np.zeros(len(x)), np.log(safe / (1 - safe))
    for _ in range(STEPS):
        p = _sigmoid(w[:, None] * x + b[:, None])
        g_w = ((p - y) * x).mean(1) + RIDGE * w
        g_b = (p - y).mean(1)
        h = np.maximum(p * (1 - p), 1e-9)
        h_ww, h_wb, h_bb = (h * x * x).mean(1) + RIDGE, (h * x).mean(1), h.mean(1)
        det = np.maximum(h_ww * h_bb - h_wb**2, 1e-12)
        step_w = (h_bb * g_w - h_wb * g_b) / det
        step_b = (h_ww * g_b - h_wb * g_w) / det
        w, b = w - np.clip(step_w, -2, 2), b - np.clip(step_b, -2, 2)
    z = w[:, None] * x + b[:, None]
    loss = (np.logaddexp(0, z) - y * z).mean(1)
    base = -(safe * np.log(safe) + (1 - safe) * np.log(1 - safe))
    slope = w / np.where(spread[:, 0] > 0, spread[:, 0], 1)
    bias = b - slope * value_mn.mean(1)
    return LogisticProbe(np.where(known, 1 - loss / base, np.nan), slope, bias)


def probe_r(
    value_mn: Float[np.ndarray, "m n"], label_mn: Bool[np.ndarray, "m n"], probe: LogisticProbe
) -> Float[np.ndarray, " m"]:
    """R of fitted probes on other rows, against the prevalence of those rows."""
    y = label_mn.astype(float)
    z = probe.slope[:, None] * value_mn + probe.bias[:, None]
    loss = (np.logaddexp(0, z) - y * z).mean(1)
    rate = np.clip(y.mean(1), 1e-9, 1 - 1e-9)
    base = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    return np.where((y.mean(1) > 0) & (y.mean(1) < 1), 1 - loss / base, np.nan)


class Coalition(NamedTuple):
    """Latents that cover a concept together."""

    latents: list[int]
    f1: float
    """Of calling a row positive where any of them fires."""


def coalition(
    fires_ns: Bool[np.ndarray, "n s"],
    label_n: Bool[np.ndarray, " n"],
    *,
    beta: float = 0.5,
    max_latents: int = 16,
) -> Coalition:
    """Greedy matching of a concept that is split over several latents.

    Repeatedly takes the latent with the best F_β for the rows not yet covered and stops when F1 of
    the union no longer rises. Null value: the F1 of the best single random latent. Source: FBMP of
    Klotz et al. 2026, formula as published with their demonstration.
    """
    rest, covered = label_n.copy(), np.zeros(len(label_n), bool)
    found: list[int] = []
    best = 0.0
    while len(found) < max_latents:
        hits = (fires_ns & rest[:, None]).sum(0)
        fired = fires_ns.sum(0)
        f = (1 + beta**2) * hits / np.maximum(beta**2 * rest.sum() + fired, 1e-12)
        latent = int(f.argmax())
        union = covered | fires_ns[:, latent]
        f1 = 2 * (union & label_n).sum() / max(union.sum() + label_n.sum(), 1)
        if f1 <= best:
            break
        found.append(latent)
        best, covered, rest = float(f1), union, rest & ~fires_ns[:, latent]
    return Coalition(found, best)


def _sigmoid(z: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m n"]:
    return np.exp(-np.logaddexp(0, -z))
