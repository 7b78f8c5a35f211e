"""Figures of a comparison show what its tables hold."""

import numpy as np
import pandas as pd

from saev.comparison.figures import concept_figure, match_figure, power_figure
from saev.pages.figures import latent_scatter


def test_match_curve_is_the_share_at_or_above() -> None:
    matches = pd.DataFrame(
        {"sae_a": "one", "sae_b": "two", "correlation": [0.2, 0.9, 0.5, np.nan],
         "correlation_null": [0.3, 0.3, 0.4, np.nan]}
    )  # fmt: skip
    axis = match_figure(matches).axes[0]
    x, y = axis.lines[0].get_data()
    assert np.asarray(x).tolist() == [0.2, 0.5, 0.9]
    np.testing.assert_allclose(y, [1, 2 / 3, 1 / 3])
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["one → two", "mis-paired, 95 % level"]


def test_concepts_are_counted_by_verdict_in_words() -> None:
    concepts = pd.DataFrame(
        {"sae_a": "one", "sae_b": ["two"] * 3 + ["three"], "auroc_a": [0.9, 0.95, 0.5, 0.6],
         "auroc_b": [0.9, 0.4, 0.5, 0.9], "verdict": ["both", "only_a", "only_a", "only_b"]}
    )  # fmt: skip
    first, second = concept_figure(concepts).axes
    texts = [text.get_text() for text in first.get_legend().get_texts()]
    assert texts == ["both have it (1)", "two lacks it (2)"]
    assert [t.get_text() for t in second.get_legend().get_texts()] == ["one lacks it (1)"]
    assert first.get_xlim()[0] < 0.45, "the lowest score is on the canvas"


def test_power_curve_marks_the_sizes_measured() -> None:
    power = pd.DataFrame(
        {"sae": "one", "source": "toy", "kind": "class", "n_positive": [2, 5], "found": [0.4, 1.0],
         "n_concepts": [7, 7]}
    )  # fmt: skip
    axis = power_figure(power).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["2", "5"]
    assert axis.get_legend().get_texts()[0].get_text() == "one: toy, class (7 concepts)"


def test_scatter_leaves_out_scores_without_support() -> None:
    latents = pd.DataFrame(
        {"rate_image": [0.1, 0.2, 0.5, 0.0], "ms_support": [20, 3, 30, 0], "ms": [0.4, 0.9, 0.1, 0],
         "ms_null": [0.2, 0.2, 0.2, 0.2], "ms_corrected": [0.3, 0.9, 0.05, np.nan]}
    )  # fmt: skip
    axis = latent_scatter(latents, "a model").axes[0]
    assert axis.get_title() == "2 latents with support; a model"
    below, above = (c.get_offsets().tolist() for c in axis.collections)
    assert below == [[0.5, 0.05]] and above == [[0.1, 0.3]]
