"""Runs of a sweep, read back from the MLflow store or from the sweep's folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saev.errors import UserError
from saev.evaluation.choice.front import Point
from saev.files import (
    BACKBONE_IDENTITY,
    MOST_BYTES,
    RECORDED_TOKENS,
    Check,
    a_number,
    a_text,
    a_whole,
    an_object,
    or_null,
    plain_data,
    plain_object,
    read_json,
    shown,
)
from saev.tracking import MLflowTracking, Tracking
from saev.tracking.sweeps import artifact, run_in_folder, sweep_runs

if TYPE_CHECKING:
    from mlflow.entities import Run

NEEDED = {
    "val/l0": a_number(0), "val/explained_variance": a_number(most=1),
    "val/dead_fraction": a_number(0, 1), "val/dense_fraction": a_number(0, 1),
}  # fmt: skip
"""What ``metrics.json`` of an evaluated dictionary always holds, and what it can be."""

_NAMED = an_object({"name": a_text()}, more=True)


def _metrics_fit(value: Any, name: str) -> str | None:
    """Numbers, those of ``NEEDED`` within their ranges; others may be nan."""
    for key, entry in value.items():
        if not isinstance(entry, float) and a_number()(entry, key):
            return f"{key} is {shown(entry)}, no number"
        if key in NEEDED and (wrong := NEEDED[key](entry, key)):
            return wrong
    return None


def _rate_fits(value: Any, name: str) -> str | None:
    return (a_text() if isinstance(value, str) else or_null(a_number()))(value, name)


def _node(**fields: Check) -> Check:
    """A node of the configuration, or null; other keys are not looked at."""
    return or_null(an_object({}, fields, more=True))


def _belongs_fit(value: Any, name: str) -> str | None:
    return BACKBONE_IDENTITY(value, name) or _NAMED(value, name)


CHECKS = {
    "config.yaml": an_object(
        {},
        {
            "trainer": _node(max_steps=or_null(a_whole(-1))),
            "data": _node(batch_size=or_null(a_whole(1))),
            "model": _node(optimizer=_node(lr=_rate_fits)),
            "evaluation": _node(n_images=or_null(a_whole(1))),
        },
        more=True,
    ),
    "metrics.json": _metrics_fit,
    "sae/config.json": an_object(
        {
            "backbone": _belongs_fit,
            "layer": a_whole(0, 10_000),
            "tokens": RECORDED_TOKENS,
            "activation": a_text(100),
            "d_sae": a_whole(1),
        },
        {"manifest_sha256": plain_data, "recipe": or_null(plain_object)},
        more=True,
    ),
}
"""Of the files of a member, which may be anybody's."""
SAME = ("backbone", "images", "tokens", "evaluation.n_images")
"""What members must agree in for their explained variance to be of the same activations."""


@dataclass(frozen=True)
class SweepRun:
    """One finished run of a sweep, with the dictionary it left."""

    label: str
    """The overrides that tell it from the other members."""
    run_id: str | None
    """In the MLflow store; None where the store knows nothing of it."""
    folder: Path
    """With ``config.yaml``, ``metrics.json`` and ``sae/``."""
    config: dict[str, Any]
    """The composed configuration of its run."""
    sae_config: dict[str, Any]
    """``sae/config.json``."""
    metrics: dict[str, float]

    @property
    def point(self) -> Point:
        return Point(self.metrics["val/l0"], self.metrics["val/explained_variance"])


@dataclass(frozen=True)
class Sweep:
    """What was found under an id or in a folder."""

    name: str
    run_id: str | None
    """Of the parent run."""
    members: list[SweepRun]
    left_out: dict[str, str]
    """Name of a run without a scored dictionary → why it is not among the members."""


def find_sweep(given: str, tracking: Tracking, work_dir: Path) -> Sweep:
    """The sweep with this parent run id, or in this folder.

    Args:
        given: an MLflow run id, or the folder that ``hydra.sweep.dir`` named.
        tracking: says which store holds the runs.
        work_dir: where artifacts are copied that are not on this machine's disk.

    Raises:
        UserError: unknown id, no member, no member with a scored dictionary.
    """
    if Path(given).is_dir():
        sweep = _from_folder(Path(given), tracking)
    elif isinstance(tracking, MLflowTracking):
        sweep = _from_store(given, tracking, work_dir)
    else:
        raise UserError(
            f"sweep={given} is not a folder, and only with logger=mlflow is there a store to look the "
            "run up in; give the folder of the sweep"
        )
    if not sweep.members:
        reasons = "; ".join(f"{name}: {why}" for name, why in sweep.left_out.items())
        raise UserError(
            f"sweep={given} has no finished member with a scored dictionary ({reasons or 'it is empty'})"
        )
    return sweep


def _from_store(run_id: str, tracking: MLflowTracking, work_dir: Path) -> Sweep:
    uri = tracking.tracking_uri
    parent, children = sweep_runs(uri, tracking.experiment_name, run_id)
    names = labels([_overrides_of(run) for run in children])
    members, left_out = [], {}
    for name, run in zip(names, children, strict=True):
        if run.info.status != "FINISHED":
            left_out[name] = f"its run is {run.info.status.lower()}"
            continue
        found = _member(name, run.info.run_id, _files_of(run, uri, work_dir))
        if isinstance(found, SweepRun):
            members.append(found)
        else:
            left_out[name] = found
    return Sweep(str(parent.info.run_name), run_id, members, left_out)


def _overrides_of(run: "Run") -> list[str]:
    recorded = run.data.tags.get("saev.overrides")
    return json.loads(recorded) if recorded else str(run.info.run_name).split()


def _files_of(run: "Run", tracking_uri: str, work_dir: Path) -> Path:
    """The run's folder where it is on this disk, else copies of its artifacts."""
    folder = Path(run.data.tags.get("saev.run_dir", ""))
    if (folder / "sae" / "config.json").is_file() and (folder / "metrics.json").is_file():
        return folder
    copies = work_dir / run.info.run_id
    for path in ("config.yaml", "metrics.json", "sae", "figures/latents_random.png"):
        artifact(tracking_uri, run.info.run_id, path, copies)
    return copies


def _from_folder(folder: Path, tracking: Tracking) -> Sweep:
    runs = sorted(
        (path for path in folder.iterdir() if (path / "config.yaml").is_file()), key=_job_number
    )
    names = labels([_overrides(path) for path in runs])
    members, left_out = [], {}
    for name, path in zip(names, runs, strict=True):
        run_id = None
        if isinstance(tracking, MLflowTracking):
            run_id = run_in_folder(tracking.tracking_uri, tracking.experiment_name, path.resolve())
        found = _member(name, run_id, path)
        if any(a_text()(text, "name") for text in (name, path.name)):
            found = "its name is no UTF-8"
        if isinstance(found, SweepRun):
            members.append(found)
        else:
            left_out[name] = found
    return Sweep(folder.resolve().name, None, members, left_out)


def _job_number(path: Path) -> tuple[int, str]:
    """Hydra's sub-folders begin with the number of the job."""
    number = path.name.partition("_")[0]
    return (int(number) if number.isdigit() else 0, path.name)


def _overrides(path: Path) -> list[str]:
    recorded = path / ".hydra" / "overrides.yaml"
    if not recorded.is_file():
        return [path.name]
    try:
        found = _read_yaml(recorded)
    except Exception:  # no more is lost than a label
        return [path.name]
    return [str(one) for one in found] if isinstance(found, list) else [path.name]


def labels(words: Sequence[Sequence[str]]) -> list[str]:
    """What tells runs apart: each run's words without those that all of them have, numbered where two
    would read the same."""
    shared = set(words[0]).intersection(*words[1:]) if len(words) > 1 else set()
    short = [" ".join(w for w in row if w not in shared) or " ".join(row) for row in words]
    return [
        text if short.count(text) == 1 else f"{text} #{short[:n].count(text) + 1}".strip()
        for n, text in enumerate(short)
    ]


def _member(name: str, run_id: str | None, folder: Path) -> SweepRun | str:
    """The member in a run folder, or why there is none."""
    read: dict[str, dict[str, Any]] = {}
    for path, check in CHECKS.items():
        if not (folder / path).is_file():
            return f"it left no {path}"
        try:
            read[path] = (read_json if path.endswith(".json") else _read_yaml)(folder / path)
        except Exception:  # parsers of both formats fail in many ways, all meaning the same
            return f"its {path} cannot be read"
        if wrong := check(read[path], ""):
            return f"its {path} does not fit: {wrong}"
    metrics = {key: float(value) for key, value in read["metrics.json"].items()}
    if missing := [key for key in NEEDED if key not in metrics]:
        return f"its metrics.json has no {missing[0]}"
    return SweepRun(name, run_id, folder, read["config.yaml"], read["sae/config.json"], metrics)


def _read_yaml(path: Path) -> Any:
    """Plain data: a member may be anybody's, so nothing in it is interpolated, and no alias makes more
    of it than stands there."""
    import yaml

    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} has more than {MOST_BYTES:,} bytes")
    text = path.read_text(encoding="utf-8")
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise UserError(f"{path} holds aliases")
    return yaml.safe_load(text)


def _at(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def select(members: Sequence[SweepRun], where: Mapping[str, Any]) -> list[SweepRun]:
    """The members whose configuration has these values, nested as the configuration is.

    Raises:
        UserError: a key that no member has, or no member with the value.
    """
    kept = list(members)
    wanted = {key: value for section in where for key, value in _leaves(where, section).items()}
    for key, value in wanted.items():
        values = [_at(one.config, key) for one in members]
        if all(found is None for found in values) and value is not None:
            raise UserError(f"choice.where.{key}: no member's config.yaml has {key}")
        kept = [one for one, found in zip(members, values, strict=True)
                if str(found) == str(value) and one in kept]  # fmt: skip
        if not kept:
            present = ", ".join(sorted({str(found) for found in values}))
            raise UserError(f"choice.where.{key}={value} leaves no member; there are {present}")
    return kept


def check_comparable(members: Sequence[SweepRun]) -> None:
    """Raises UserError unless all members were scored on the same tokens of the same images.

    They must agree in backbone, layer, images and tokens, and in the recording they were trained on.
    """
    for section in SAME:
        values = [_leaves(one.config, section) for one in members]
        for key in sorted(set().union(*values)):
            found = list(dict.fromkeys(str(value.get(key)) for value in values))
            if len(found) > 1:
                raise UserError(
                    f"the members were not scored on the same held-out activations: {key} is "
                    f"{' and '.join(found[:4])}; choose among some of them, such as "
                    f"+choice.where.{key}={found[0]}"
                )
    recordings = {one.sae_config.get("manifest_sha256") for one in members}
    if len(recordings) > 1:
        raise UserError(
            "the members were trained on different recordings of what the configuration calls the "
            "same images, so the images on disk have changed in between; run the sweep again"
        )


def _leaves(config: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Flat ``section.key`` → value of a section, or of a single value."""
    node = _at(config, section)
    if not isinstance(node, Mapping):
        return {section: node}
    flat: dict[str, Any] = {}
    for key in node:
        flat |= _leaves(config, f"{section}.{key}")
    return flat
