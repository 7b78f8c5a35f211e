"""Exemplars against a slow, obvious search."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.codes.exemplars import Exemplars


def random_codes(n_images: int, n_patches: int, n_latents: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_images, n_patches, n_latents, generator=generator).relu()


@settings(max_examples=25, deadline=None)
@given(n_images=st.integers(1, 12), batch=st.integers(1, 5), seed=st.integers(0, 999))
def test_equals_sorting_all_images(n_images: int, batch: int, seed: int) -> None:
    z_ips = random_codes(n_images, 4, 6, seed)
    exemplars = Exemplars(d_sae=6, n_top=3)
    for first in range(0, n_images, batch):
        images = torch.arange(first, min(first + batch, n_images))
        exemplars.update(z_ips[images], images)
    for latent in range(6):
        peaks, patches = z_ips[:, :, latent].max(1)
        expected = [
            (int(i), int(patches[i]), float(peaks[i]))
            for i in peaks.argsort(descending=True)[:3]
            if peaks[i] > 0
        ]
        found = exemplars.of(latent)
        assert [e.value for e in found] == [value for _, _, value in expected]
        assert {e.image for e in found} == {image for image, _, _ in expected}
        assert {(e.image, e.patch) for e in found} == {(i, p) for i, p, _ in expected}


def test_silent_latent_has_no_exemplars() -> None:
    z_ips = random_codes(5, 4, 2, seed=0)
    z_ips[:, :, 1] = 0
    exemplars = Exemplars(d_sae=2, n_top=3)
    exemplars.update(z_ips, torch.arange(5))
    assert exemplars.of(1) == []
    assert exemplars.alive().tolist() == [0]


def test_one_odd_image_does_not_make_a_latent_strong() -> None:
    z_ips = torch.zeros(3, 1, 2)
    z_ips[:, 0, 0] = torch.tensor([1.0, 1.0, 1.0])
    z_ips[0, 0, 1] = 100.0
    exemplars = Exemplars(d_sae=2, n_top=3)
    exemplars.update(z_ips, torch.arange(3))
    assert exemplars.strongest(1, n_images=3) == [0]
    assert exemplars.strongest(1, n_images=1) == [1]
