"""Sweeps read back from the MLflow store, and its model registry."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from saev.errors import UserError
from saev.tracking.mlflow_store import client, open_store

if TYPE_CHECKING:
    from mlflow.entities import Run


class SweepRuns(NamedTuple):
    """A parent run and what hangs under it."""

    parent: "Run"
    children: "list[Run]"
    """In the order in which they started, whatever their status."""


def sweep_runs(tracking_uri: str, experiment_name: str, run_id: str) -> SweepRuns:
    """The parent run of a sweep and its members.

    Raises:
        UserError: no such store, no such run, or a run that nothing hangs under.
    """
    from mlflow.exceptions import MlflowException

    open_store(tracking_uri, experiment_name)
    store = client(tracking_uri)
    try:
        parent = store.get_run(run_id)
    except MlflowException as error:
        raise UserError(
            f"sweep={run_id} is neither a folder nor a run in {tracking_uri}; give the id that the "
            "sweep printed at its end, or the folder of the sweep"
        ) from error
    children = _search(store, parent.info.experiment_id, "mlflow.parentRunId", run_id)
    if not children:
        above = parent.data.tags.get("mlflow.parentRunId")
        hint = f"it is a member of sweep={above}" if above else "it is a single run"
        raise UserError(f"sweep={run_id} has no members: {hint}")
    return SweepRuns(parent, children)


def run_in_folder(tracking_uri: str, experiment_name: str, folder: Path) -> str | None:
    """The id of the newest run that wrote into a folder, None where the store knows of none."""
    experiment = open_store(tracking_uri, experiment_name)
    found = _search(client(tracking_uri), experiment, "saev.run_dir", str(folder))
    return found[-1].info.run_id if found else None


def _search(store, experiment_id: str, tag: str, value: str) -> "list[Run]":
    quoted = value.replace("'", "''")
    found, token = [], None
    while True:
        page = store.search_runs(
            [experiment_id], f"tags.`{tag}` = '{quoted}'",
            order_by=["attributes.start_time ASC"], page_token=token,
        )  # fmt: skip
        found += page
        token = page.token
        if not token:
            return found


def artifact(tracking_uri: str, run_id: str, path: str, folder: Path) -> Path | None:
    """A file or folder of a run's artifacts, copied below ``folder``; None where there is none."""
    store = client(tracking_uri)
    parent = str(Path(path).parent) if "/" in path else None
    if path not in [entry.path for entry in store.list_artifacts(run_id, parent)]:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return Path(store.download_artifacts(run_id, path, str(folder)))


class Version(NamedTuple):
    """A registered version of a model."""

    name: str
    version: int
    alias: str


def register(
    tracking_uri: str,
    name: str,
    run_id: str,
    artifact_path: str,
    *,
    alias: str,
    tags: Mapping[str, str],
    description: str,
) -> Version:
    """Registers a folder of a run's artifacts as the next version of the model ``name``.

    The same folder registered under the same name before keeps its version: tags, alias and
    description are brought up to date.

    Raises:
        UserError: the registry does not take it.
    """
    from mlflow.exceptions import MlflowException

    store = client(tracking_uri)
    source = f"{store.get_run(run_id).info.artifact_uri}/{artifact_path}"
    try:
        if not store.search_registered_models(f"name = '{name}'"):
            store.create_registered_model(name)
        known = [v for v in store.search_model_versions(f"name = '{name}'") if v.source == source]
        if known:
            version = str(known[0].version)
            store.update_model_version(name, version, description)
        else:
            created = store.create_model_version(
                name, source, run_id, tags=dict(tags), description=description
            )
            version = str(created.version)
        for key, value in tags.items():
            store.set_model_version_tag(name, version, key, value)
        store.set_registered_model_alias(name, alias, version)
    except MlflowException as error:
        raise UserError(
            f"the model registry of {tracking_uri} refused {name}: {' '.join(str(error).split())}"
        ) from error
    return Version(name, int(version), alias)


def add_artifact(tracking_uri: str, run_id: str, file: Path, path: str) -> None:
    """Copies a file into a folder of a run's artifacts; the run may have ended."""
    client(tracking_uri).log_artifact(run_id, str(file), path)


def tag(tracking_uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Sets or replaces tags of a run that may have ended."""
    store = client(tracking_uri)
    for key, value in tags.items():
        store.set_tag(run_id, key, value)
