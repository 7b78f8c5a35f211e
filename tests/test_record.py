from pathlib import Path

from saev.record import train_command


def test_the_next_command_names_the_model_the_images_and_the_layer() -> None:
    given = ["backbone=clip_b16", "images=folder", "images.roots=[my photos]", "seed=3"]
    given += ["backbone.layer=-2", "record.layers=[8,10]"]
    assert train_command(given, 8, Path("acts/clip")) == (
        "python -m saev.train backbone=clip_b16 images=folder 'images.roots=[my photos]' "
        "backbone.layer=8 data.dir=acts/clip"
    )
