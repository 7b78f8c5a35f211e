"""How often the names of an atlas are right, judged by labels that naming never saw.

    python -m benchmarks.naming outputs/runs/describe/…

Needs an atlas of Caltech-26 and of one image per ImageNet class (``+experiment=describe_vit_tiny``).

1. Of the latents with the best average precision for each Caltech class (chosen on the discovery
   split), is a matching ImageNet class among the proposer's first ten names? Matching classes stand
   in ``caltech26_in_imagenet.yaml``. Shuffled: the same with the latents dealt out to other classes.
2. Of all alive latents: how many get a name at a given least confidence, and is the image of that
   ImageNet class among the latent's ten strongest of the ImageNet images of the test split? By
   chance it is for 10 of every so many images. Labels of these images are read here only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import yaml

from saev.atlas.atlas import Atlas
from saev.atlas.names.naming import NameProposal, choose_names

SOURCE, IMAGENET = "caltech26", "imagenet1000"
COUNTERPARTS = Path(__file__).with_name("caltech26_in_imagenet.yaml")
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
N_SHUFFLES = 1000
N_STRONGEST = 10


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


def strongest_imagenet(atlas: Atlas) -> tuple[dict[int, set[str]], set[str]]:
    """WordNet ids of each latent's strongest ImageNet images of the test split, and of all of them
    (one image per class)."""
    test = [
        i for i, one in enumerate(atlas.images)
        if one["source"] == IMAGENET and one["split"] == "test"
    ]  # fmt: skip
    wnid = {i: Path(atlas.images[i]["image_id"]).name.split("_")[0] for i in test}
    inside = np.zeros(len(atlas.images), bool)
    inside[test] = True
    store = atlas.store()
    strongest: dict[int, set[str]] = {}
    for first, last in store.chunks():
        codes = store.image_codes(first, last)
        mine = inside[codes.image]
        latent, image, value = codes.latent[mine], codes.image[mine], codes.max[mine]
        order = np.lexsort((-value, latent))
        bounds = np.searchsorted(latent[order], np.arange(first, last + 1))
        for k in range(first, last):
            own = order[bounds[k - first] : bounds[k - first + 1]][:N_STRONGEST]
            strongest[k] = {wnid[int(i)] for i in image[own]}
    return strongest, set(wnid.values())


def report_curve(atlas: Atlas, proposer: str | None) -> None:
    """Named latents and their correctness by the least confidence asked for."""
    ids = wordnet_ids()
    strongest, known = strongest_imagenet(atlas)
    rows = atlas.names if proposer is None else atlas.names[atlas.names["proposer"] == proposer]
    proposals = [
        NameProposal(**row)  # type: ignore[arg-type]
        for row in rows[rows["rank"] == 0].to_dict("records")
    ]
    alive = ~atlas.latents["dead"].to_numpy()
    print(
        f"\n{proposer or 'surest of all proposers'}; right by chance {N_STRONGEST / len(known):.3f}\n"
    )
    print("| least confidence | latents named | of them judged | right |\n|---|---|---|---|")
    for least in THRESHOLDS:
        names = choose_names(proposals, len(atlas.latents), min_confidence=least)
        named = [k for k, one in enumerate(names) if one.name is not None and alive[k]]
        judged = [k for k in named if ids.get(names[k].name or "") in known]
        right = [ids[names[k].name or ""] in strongest[k] for k in judged]
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
    for proposer in (None, "effect", "vote"):
        report_curve(atlas, proposer)


if __name__ == "__main__":
    main()
