"""Query language of ``query="…"``: one line in, a table of latents out."""

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from saev.atlas.atlas import Atlas, patches_in
from saev.errors import UserError, first_line

if TYPE_CHECKING:
    import pandas as pd

KINDS = {
    "concept": "concept: shape star",
    "patches": "patches: IMAGE 40 41 54, or patches: IMAGE 0.2 0.1 0.5 0.6 (left, top, right, bottom)",
    "images": "images: A B against C D (ids; * stands for any letters)",
    "unnamed": "unnamed:",
    "near": "near: 17",
}
N_EXAMPLES = 3


class Answer(NamedTuple):
    """What a question brought."""

    title: str
    table: "pd.DataFrame"
    """One row per latent, best first; the column latent is always there."""


def ask(atlas: Atlas, query: str) -> Answer:
    """Answers a question; words without a kind are looked for in names and concepts.

    ``concept: NAME`` the latents that predict a concept; ``patches: IMAGE …`` what patches of an image
    are, by their numbers or a box in shares of its sides; ``images: … against …`` what some images
    share that others lack; ``unnamed:`` important latents without a name; ``near: N`` neighbours.

    Raises:
        UserError: a question that cannot be read, or names what the atlas does not know.
    """
    try:
        return _answer(atlas, query)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = first_line(error)
        raise UserError(
            f"{query!r} cannot be answered from the tables in {atlas.folder} ({reason}); describe again"
        ) from error


def _answer(atlas: Atlas, query: str) -> Answer:
    kind, colon, rest = query.partition(":")
    if not colon or kind.strip() not in KINDS:
        return Answer(f"{query!r} in names and concepts", atlas.search(query))
    kind, rest = kind.strip(), rest.strip()
    if kind == "concept":
        found = atlas.for_concept(rest)
        columns = ["latent", "source", "auroc", "ap", "f1", "q"]
        return Answer(f"latents that predict {rest} (test split)", found[columns])
    if kind == "patches":
        return _patches(atlas, rest)
    if kind == "images":
        return _images(atlas, rest)
    if kind == "unnamed":
        columns = ["latent", "importance", "rate_image", "ms", "best_concept", "concept_f1"]
        return Answer("important but unnamed", atlas.important_but_unnamed()[columns])
    if not rest.isdecimal():
        raise _unreadable("near", query)
    import pandas as pd

    both = [atlas.nearest(int(rest), how) for how in ("atom", "coactivation")]
    rows = pd.concat(both)[["neighbour", "kind", "likeness"]]
    return Answer(f"near latent {rest}", rows.rename(columns={"neighbour": "latent"}))


def with_examples(atlas: Atlas, table: "pd.DataFrame") -> "pd.DataFrame":
    """The table with each latent's name and the ids of its strongest images."""
    strongest = atlas.exemplars[atlas.exemplars["role"] == "max"]
    strongest = strongest[strongest["rank"] < N_EXAMPLES].sort_values("rank")
    ids = strongest.groupby("latent")["image_id"].agg(", ".join)
    names = atlas.latents.set_index("latent")["name"]
    shown = table.copy()
    if "name" not in shown:
        shown.insert(1, "name", shown["latent"].map(names))
    shown["strongest images"] = shown["latent"].map(ids)
    return shown


def _patches(atlas: Atlas, rest: str) -> Answer:
    image, *numbers = rest.split() or [""]
    if not numbers or not all(re.fullmatch(r"\d+(\.\d+)?", n) for n in numbers):
        raise _unreadable("patches", rest)
    if any("." in n for n in numbers):
        if len(numbers) != 4:
            raise _unreadable("patches", rest)
        left, top, right, bottom = map(float, numbers)
        patches = patches_in((left, top, right, bottom), atlas.grid).tolist()
    else:
        patches = [int(n) for n in numbers]
    title = f"what {len(patches)} patches of {image} are"
    return Answer(title, atlas.for_patches(image, patches))


def _images(atlas: Atlas, rest: str) -> Answer:
    sides = re.split(r"\s+against\s+", rest)
    if len(sides) != 2:
        raise _unreadable("images", rest)
    positive, negative = ([_matching(atlas, word) for word in side.split()] for side in sides)
    first, second = (sorted({i for one in side for i in one}) for side in (positive, negative))
    title = f"what {len(first)} images share that {len(second)} lack (AUROC on these very images)"
    return Answer(title, atlas.contrast(first, second))


def _matching(atlas: Atlas, word: str) -> list[int]:
    found = [i for i, one in enumerate(atlas.images) if fnmatchcase(one["image_id"], word)]
    if not found:
        raise UserError(
            f"no image of the atlas is called {word}; its ids look like {atlas.images[0]['image_id']}"
        )
    return found


def _unreadable(kind: str, text: str) -> UserError:
    return UserError(f"query {text!r} cannot be read; write {KINDS[kind]}")
