"""Hypotheses with several dictionaries: what holds over all of them is called replicated."""

import numpy as np
import pytest

from saev.intervention.replication import pseudo_values


def test_pseudo_values_of_a_mean_are_the_values():
    values = np.random.default_rng(0).normal(size=12)

    def mean(weights_mn):
        return weights_mn @ values / weights_mn.sum(1)

    np.testing.assert_allclose(pseudo_values(mean, 12), values)


def test_an_image_without_the_class_contributes_the_whole():
    """A ratio over images that show it: the others pull its spread down, as they should."""
    hit, n = np.array([1.0, 3.0, 0.0]), np.array([2.0, 4.0, 0.0])

    def ratio(weights_mn):
        return (weights_mn @ hit) / (weights_mn @ n)

    assert pseudo_values(ratio, 3)[2] == pytest.approx(4 / 6)
