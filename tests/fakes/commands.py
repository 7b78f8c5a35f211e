"""What the command-line tests share."""

from collections.abc import Callable

Run = Callable[..., str | int | None]
"""Command name and overrides → exit status: None or 0 for success, the sentence on failure."""

TINY = (
    "images.n_images=24",
    "record.images_per_shard=8",
    "record.num_workers=0",
    "model.expansion=2",
    "model.k=8",
    "data.batch_size=256",
    "data.reservoir_tokens=1024",
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "evaluation.num_workers=0",
)
"""A training run of a few seconds."""

SMALL = (
    "atlas.num_workers=0",
    "atlas.images_per_part=8",
    "atlas.n_permutations=39",
    "atlas.n_map_permutations=9",
    "atlas.baseline_images=12",
    "naming.n_images=2",
    "naming.n_latents=24",
    "naming.n_random=8",
    "trainer.accelerator=cpu",
    "pages.n_latents=12",
    "pages.contact_sheets=false",
)
"""An atlas of a few seconds."""


def assert_sentence(status: str | int | None, *words: str) -> None:
    assert isinstance(status, str), f"no sentence: {status!r}"
    assert "Traceback" not in status
    assert "\n" not in status.strip(), status
    for word in words:
        assert word in status, status
