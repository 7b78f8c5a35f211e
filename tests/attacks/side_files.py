"""Files of a stranger beside a good dictionary: trees of names, tables of labels, lists of classes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from tests.attacks.foreign_files import CPU, DEEP, EXPORTS, Case


def side_cases() -> list[Case]:
    """All of them."""

    def tree(content: str) -> Callable[[Path], list[str]]:
        def make(folder: Path) -> list[str]:
            (folder / "tree.csv").write_text(content)
            return [*describe, f"naming.tree={folder / 'tree.csv'}"]

        return make

    def table(name: str, write: Callable[[Path], Any]) -> Callable[[Path], list[str]]:
        def make(folder: Path) -> list[str]:
            write(folder / name)
            return [*describe, f"+atlas.tables.scenes={folder / name}"]

        return make

    def pipe(key: str) -> Callable[[Path], list[str]]:
        def make(folder: Path) -> list[str]:
            os.mkfifo(folder / "pipe")
            return [*describe, f"{key}={folder / 'pipe'}"]

        return make

    def names(folder: Path) -> list[str]:
        (folder / "names.json").write_text(DEEP)
        return ["train", "task=class_rows", "model=class_rows", "model.rows=classifier",
                f"model.class_names={folder / 'names.json'}", "images.n_images=6", CPU[0]]  # fmt: skip

    describe = ["describe", f"sae={EXPORTS / 'topk'}", "atlas.num_workers=0", CPU[0]]
    first = "scenes-1/000000"
    binary = pd.DataFrame({"image_id": [first], "a": [b"\xff"]})
    found = {
        "tree header": tree("child,parent\n"), "tree two parents": tree("child,parent\na,b\na,c\n"),
        "tree circle": tree("child,parent\na,b\nb,a\n"), "tree pipe": pipe("naming.tree"),
        "tree device": lambda _: [*describe, "naming.tree=/dev/zero"],
        "vocabulary pipe": pipe("naming.vocabulary"), "table pipe": pipe("+atlas.tables.scenes"),
        "table header": table("t.csv", lambda p: p.write_text("image_id,a\n")),
        "table blank": table("t.csv", lambda p: p.write_text(f"image_id,a\n{first},\n")),
        "table ragged": table("t.csv", lambda p: p.write_text(f"image_id,a\n{first},1,2\n")),
        "table of bytes": table("t.parquet", binary.to_parquet),
        "class names deep": names,
        "one image": lambda _: [*describe, "atlas.n_images=1"],
    }  # fmt: skip
    return [Case(f"{n:03d} side {name}", make) for n, (name, make) in enumerate(found.items())]
