"""The images that show a latent."""

import numpy as np

from saev.atlas.samples import centred, collect_samples
from saev.codes.sparse_codes import per_image


def samples_of(peaks: np.ndarray, n_top: int = 4, **kwargs):
    """``peaks``: latents × images, one token each."""
    latent, image = peaks.nonzero()
    codes = per_image(latent, image, peaks[latent, image].astype(np.float32), 1)
    embedding = np.random.default_rng(0).standard_normal((peaks.shape[1], 4)).astype(np.float32)
    embedding = kwargs.pop("embedding", embedding)
    return collect_samples(codes, range(len(peaks)), centred(embedding), n_top=n_top, **kwargs)


def images(samples, latent: int, role: str) -> list[int]:
    rows = [i for i, (k, r) in enumerate(zip(samples.latent, samples.role, strict=True))
            if (k, r) == (latent, role)]  # fmt: skip
    return samples.image[rows].tolist()


def test_strongest_first_and_silent_latents_left_out() -> None:
    peaks = np.zeros((3, 30))
    peaks[0] = np.random.default_rng(1).permutation(30)
    peaks[2, 7] = 1
    found = samples_of(peaks)
    assert images(found, 0, "max") == (-peaks[0]).argsort()[:4].tolist()
    assert images(found, 2, "max") == [7]
    assert 1 not in found.latent


def test_one_image_of_every_tenth() -> None:
    peaks = np.arange(1, 101)[None].astype(float)
    chosen = images(samples_of(peaks), 0, "decile")
    assert [image // 10 for image in chosen] == list(range(10))


def test_near_misses_are_silent_and_most_alike() -> None:
    peaks = np.zeros((1, 6))
    peaks[0, :2] = [2.0, 1.0]
    embedding = np.array([[1, 0], [1, 0.1], [0.9, 0.2], [0, 1], [-1, 0], [0.2, 1]], np.float32)
    found = samples_of(peaks, n_near_misses=2, embedding=embedding)
    assert images(found, 0, "near_miss") == [2, 5]


def test_latents_do_not_depend_on_each_other() -> None:
    """Deciles are drawn per latent, so a chunk of latents gives the same rows as all of them."""
    peaks = np.random.default_rng(2).random((5, 60))
    whole, chunk = samples_of(peaks), samples_of(np.vstack([peaks[:2] * 0, peaks[2:]]))
    for latent in (2, 3, 4):
        assert images(whole, latent, "decile") == images(chunk, latent, "decile")


def test_strongest_on_the_class_token_are_a_list_of_their_own() -> None:
    """Two tokens per image, the first of them the class token."""
    peaks = np.zeros((2, 20, 2))
    rng = np.random.default_rng(3)
    peaks[0, :, 0], peaks[0, :, 1] = rng.permutation(20), 30 + rng.permutation(20)
    peaks[1, 4, 1] = 1  # never fires on the class token
    latent, row = peaks.reshape(2, -1).nonzero()
    value = peaks.reshape(2, -1)[latent, row].astype(np.float32)
    on_class = row % 2 == 0
    found = collect_samples(
        per_image(latent, row, value, 2), range(2), centred(rng.standard_normal((20, 3))), n_top=3,
        on_class_token=per_image(latent[on_class], row[on_class], value[on_class], 2),
    )  # fmt: skip
    assert images(found, 0, "class") == (-peaks[0, :, 0]).argsort()[:3].tolist()
    assert images(found, 0, "max") == (-peaks[0, :, 1]).argsort()[:3].tolist()
    assert images(found, 1, "class") == [] and images(found, 1, "max") == [4]
