"""How often the names of an atlas are right, judged by labels that naming never saw.

    python -m benchmarks.naming outputs/runs/describe/…

Needs an atlas of Caltech-26 and of one image per ImageNet class (``+experiment=describe_vit_tiny``).

1. Of the latents with the best average precision for each Caltech class (chosen on the discovery
   split), is a matching ImageNet class among the proposer's first ten names? Matching classes stand
   in ``caltech26_in_imagenet.yaml``. Shuffled: the same with the latents dealt out to other classes.
2. Of all alive latents: how many get a name at a given least confidence, and is the image of that
   ImageNet class among the latent's five strongest? One half of the images of the test split
   verifies the names (the atlas itself uses all of them), the ImageNet images of the other half
   judge. By chance it is for 5 of every so many images. Labels of these images are read here only;
   the model's classifier, whose probabilities verify, was trained with such labels.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import yaml

from datamodules.images.selection import draw
from saev.atlas.atlas import Atlas
from saev.atlas.names.naming import (
    N_TOP,
    NameProposal,
    choose_names,
    over_proposers,
    verify_names,
)

SOURCE, IMAGENET = "caltech26", "imagenet1000"
COUNTERPARTS = Path(__file__).with_name("caltech26_in_imagenet.yaml")
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
N_SHUFFLES = 1000
N_STRONGEST = 5


def best_latents(atlas: Atlas) -> dict[str, int]:
    """For every Caltech class the latent with the best average precision on the discovery split."""
    rows = atlas.concepts[
        (atlas.concepts["source"] == SOURCE)
        & (atlas.concepts["kind"] == "class")
        & (atlas.concepts["rank_ap"] == 0)
        & (atlas.concepts["split"] == "test")
    ]
    return dict(zip(rows["concept"], rows["latent"].astype(int), strict=True))


def names_of(atlas: Atlas, proposer: str) -> dict[int, list[str]]:
    """Every latent's ten names by one proposer, best first."""
    rows = atlas.names[atlas.names["proposer"] == proposer].sort_values(["latent", "rank"])
    return {int(k): list(names) for k, names in rows.groupby("latent")["name"]}  # type: ignore[arg-type]


def hits(
    latents: dict[str, int], names: dict[int, list[str]], right: dict[str, list[str]], n: int
) -> float:
    """Share of the classes with counterparts whose latent has one among its first ``n`` names."""
    judged = [c for c in latents if right[c]]
    found = [bool(set(names.get(latents[c], [])[:n]) & set(right[c])) for c in judged]
    return float(np.mean(found))


def deal_out(latents: dict[str, int], rng: np.random.Generator) -> dict[str, int]:
    """Every class gets the latent of another one."""
    own = np.array(list(latents.values()))
    while True:
        other = rng.permutation(own)
        if (other != own).all():
            return dict(zip(latents, other.tolist(), strict=True))


def report_classes(atlas: Atlas, right: dict[str, list[str]]) -> None:
    latents = best_latents(atlas)
    print(f"{len(latents)} classes, {sum(bool(right[c]) for c in latents)} with a counterpart\n")
    rng = np.random.default_rng(0)
    print("| proposer | hit@1 | hit@5 | hit@10 | hit@10, shuffled |\n|---|---|---|---|---|")
    for proposer in ("effect", "vote"):
        names = names_of(atlas, proposer)
        found = [hits(latents, names, right, n) for n in (1, 5, 10)]
        dealt = [hits(deal_out(latents, rng), names, right, 10) for _ in range(N_SHUFFLES)]
        shares = " | ".join(f"{value:.2f}" for value in found)
        print(f"| {proposer} | {shares} | {np.mean(dealt):.3f} |")
    print("\n| class | latent | test AP | effect: first names | vote: first names | name given |")
    print("|---|---|---|---|---|---|")
    effect, vote = names_of(atlas, "effect"), names_of(atlas, "vote")
    rows = atlas.concepts[
        (atlas.concepts["source"] == SOURCE) & (atlas.concepts["split"] == "test")
    ]
    precision = rows.set_index(["concept", "latent"])["ap"]
    given = atlas.latents.set_index("latent")
    for concept, latent in sorted(latents.items()):
        name = given.loc[latent, "name"]
        called = (
            f"{name} ({given.loc[latent, 'name_confidence']:.2f})" if isinstance(name, str) else "–"
        )
        marked = [
            ", ".join(f"**{n}**" if n in right[concept] else n for n in names.get(latent, [])[:3])
            for names in (effect, vote)
        ]
        ap = f"{precision[concept, latent]:.2f}"
        print(f"| {concept} | {latent} | {ap} | {marked[0]} | {marked[1]} | {called} |")


def halves(atlas: Atlas) -> tuple[np.ndarray, np.ndarray]:
    """Which images of the test split verify names, and which of the ImageNet ones judge them."""
    test = np.array([one["split"] == "test" for one in atlas.images])
    first = np.array([draw(0, "half", one["image_id"]) < 0.5 for one in atlas.images])
    imagenet = np.array([one["source"] == IMAGENET for one in atlas.images])
    return test & first, test & ~first & imagenet


def strongest(atlas: Atlas, inside: np.ndarray, n: int) -> list[list[int]]:
    """Each latent's ``n`` strongest images of those ``inside``, by position in the atlas."""
    store = atlas.store()
    found: list[list[int]] = []
    for first, last in store.chunks():
        codes = store.image_codes(first, last)
        mine = inside[codes.image]
        latent, image, value = codes.latent[mine], codes.image[mine], codes.max[mine]
        order = np.lexsort((-value, latent))
        bounds = np.searchsorted(latent[order], np.arange(first, last + 1))
        found += [image[order[a : min(b, a + n)]].tolist() for a, b in pairwise(bounds)]
    return found


def verified_on(atlas: Atlas, inside: np.ndarray) -> dict[str, list[NameProposal]]:
    """First choices of the proposers that the model's own classifier can judge, with evidence from
    these images alone."""
    logits = atlas.store().logits()
    assert logits is not None
    presence_bv = torch.from_numpy(logits[inside].astype(np.float32)).softmax(-1).numpy()
    place = inside.cumsum() - 1
    tops = [place[row].tolist() for row in strongest(atlas, inside, N_TOP)]
    column = {name: number for number, name in enumerate(wordnet_ids())}
    found = {}
    for proposer in ("effect", "vote"):
        rows = atlas.names[(atlas.names["proposer"] == proposer) & (atlas.names["rank"] == 0)]
        proposals = [NameProposal(**row) for row in rows.to_dict("records")]  # type: ignore[arg-type]
        evidence = verify_names(
            presence_bv, [tops[one.latent] for one in proposals],
            np.array([column[one.name] for one in proposals]),
        )  # fmt: skip
        found[proposer] = [
            replace(one, confidence=float(c), p=float(p))
            for one, c, p in zip(proposals, *evidence, strict=True)
        ]
    return found


def report_curve(atlas: Atlas, title: str, proposals: list[NameProposal]) -> None:
    """Named latents and their correctness by the least confidence asked for, on images that did not
    verify the names."""
    ids = wordnet_ids()
    judges = halves(atlas)[1]
    wnid = [Path(one["image_id"]).name.split("_")[0] for one in atlas.images]
    known = {wnid[i] for i in judges.nonzero()[0]}
    shown = [{wnid[i] for i in row} for row in strongest(atlas, judges, N_STRONGEST)]
    alive = ~atlas.latents["dead"].to_numpy()
    print(f"\n{title}; right by chance {N_STRONGEST / len(known):.3f}\n")
    print("| least confidence | latents named | of them judged | right |\n|---|---|---|---|")
    for least in THRESHOLDS:
        names = choose_names(proposals, len(atlas.latents), min_confidence=least)
        named = [k for k, one in enumerate(names) if one.name is not None and alive[k]]
        judged = [k for k in named if ids.get(names[k].name or "") in known]
        right = [ids[names[k].name or ""] in shown[k] for k in judged]
        share = f"{np.mean(right):.2f}" if right else "–"
        print(f"| {least} | {100 * len(named) / alive.sum():.1f} % | {len(judged)} | {share} |")


def wordnet_ids() -> dict[str, str]:
    """WordNet id of every ImageNet class by the name that atlases use."""
    from timm.data import ImageNetInfo

    from saev.atlas.names.candidate_names import distinct_names

    info = ImageNetInfo("imagenet-1k")
    return dict(zip(distinct_names(info.label_descriptions()), info.label_names(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="run folder of saev.describe")
    args = parser.parse_args()
    atlas = Atlas.open(Path(args.run) / "latents")
    metrics = json.loads((Path(args.run) / "metrics.json").read_text())
    report_classes(atlas, yaml.safe_load(COUNTERPARTS.read_text(encoding="utf-8")))
    print(
        f"\nnamed: {100 * metrics['latents/named_fraction']:.1f} % of the alive latents; "
        f"{100 * metrics['latents/named_fraction_shuffled']:.2f} % with shuffled images"
    )
    by_proposer = verified_on(atlas, halves(atlas)[0])
    report_curve(atlas, "surest of both proposers", over_proposers(list(by_proposer.values())))
    for proposer, proposals in by_proposer.items():
        report_curve(atlas, proposer, over_proposers([proposals]))


if __name__ == "__main__":
    main()
