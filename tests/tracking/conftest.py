"""One sqlite store for the tests that need a real one: creating it takes seconds."""

import shutil

import pytest

from saev.tracking.mlflow_store import client, open_store
from tests.fakes.once import Once


@pytest.fixture(scope="session")
def uri(once: Once, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of this process, copied from one that holds the schema and nothing else."""
    folder = once("store", lambda new: client(f"sqlite:///{new}/mlflow.db").search_experiments())
    own = tmp_path_factory.mktemp("store") / "new"
    own.mkdir()
    shutil.copy(folder / "mlflow.db", own)
    uri = f"sqlite:///{own / 'mlflow.db'}"
    open_store(uri, "saev")
    return uri
