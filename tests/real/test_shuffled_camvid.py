"""Choice on the masks of real street scenes: codes that know nothing give no small p."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images import SegmentationImages
from datamodules.patches import majority_with_share
from saev.intervention.choose.code_table import CodeTable
from saev.intervention.choose.selectors import score_latents
from saev.intervention.judge.tally import Groups
from saev.intervention.readout import shuffled
from saev.stats.tests import rank_p
from tests.fakes.street import blind_codes
from tests.fakes.uniform_p import uniformity_p

DATA = Path(os.environ.get("SAEV_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
SIDE, GRID, PURITY = 224, (14, 14), 0.9
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "camvid").is_dir(), reason="SAEV_REAL_DATA is absent"),
]


@pytest.fixture(scope="module")
def patches() -> tuple[np.ndarray, np.ndarray]:
    """Class and image of the clear patches of the training images, of whole pictures, squashed."""
    source = SegmentationImages(str(DATA / "camvid"), void_value=11)
    labels, images = [], []
    for number, item in enumerate(source.split("train")):
        mask = Image.fromarray(source.mask(item)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        label, share = majority_with_share(np.asarray(mask), GRID, len(source.class_names))
        clear = (label >= 0) & (share >= PURITY)
        labels.append(label[clear])
        images.append(np.full(clear.sum(), number))
    return np.concatenate(labels), np.concatenate(images)


def test_neither_common_nor_rare_classes_are_stuck_at_an_end(patches):
    labels, image = patches
    n_classes = int(labels.max()) + 1
    groups = Groups(((0, n_classes),))
    tested = np.flatnonzero(np.bincount(labels) >= 100)
    assert len(tested) == 6
    p = {"f1": [], "auroc": [], "average_precision": []}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        table = CodeTable(blind_codes(labels, image, 300, "patch", rng), labels)
        relabelled = [
            table.relabelled(shuffled(labels[:, None], image, groups, "patch", rng)[:, 0])
            for _ in range(39)
        ]
        for by, found in p.items():
            null = np.stack([score_latents(by, one, n_classes).max(0) for one in relabelled])
            best = score_latents(by, table, n_classes).max(0)
            found.append([rank_p(best[c], null[:, c]) for c in tested])
    for by, found in p.items():
        p_wc = np.array(found)
        assert uniformity_p(p_wc.ravel()) >= 0.01, by
        assert ((p_wc.mean(0) > 0.2) & (p_wc.mean(0) < 0.8)).all(), (by, p_wc.mean(0))
        assert ((p_wc.min(0) < 0.5) & (p_wc.max(0) > 0.5)).all(), by
