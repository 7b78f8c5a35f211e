"""What the benchmark draws from its seed: the split of images, and the latents that are looked at.

Suffixes: n images, k latents.
"""

import numpy as np
from jaxtyping import Int

SEED = 42
TEST_SHARE = 0.2


def split_images(
    label_n: Int[np.ndarray, " n"], test_share: float = TEST_SHARE, seed: int = SEED
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
    """Positions of the images to fit on and of those to test on.

    Split within classes where each class from 0 to the largest has two images or more, else at
    random. A number that no image bears counts as a class without images, so labels with gaps are
    split at random.

    Raises:
        ValueError: fewer test images than classes (from scikit-learn).
    """
    from sklearn.model_selection import train_test_split

    by_class = label_n if np.bincount(label_n).min() >= 2 else None
    train, test = train_test_split(
        np.arange(len(label_n)), test_size=test_share, stratify=by_class, random_state=seed
    )
    return np.asarray(train), np.asarray(test)


def draw_latents(
    candidate_k: Int[np.ndarray, " k"], most: int, seed: int = SEED
) -> Int[np.ndarray, " drawn"]:
    """At most so many of the candidates, in ascending order; all of them where there are no more."""
    if len(candidate_k) <= most:
        return candidate_k
    drawn = np.random.RandomState(seed).choice(candidate_k, size=most, replace=False)
    return np.sort(drawn)
