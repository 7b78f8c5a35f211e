"""One sqlite store for the tests that need a real one: creating it takes seconds."""

import pytest

from saev.tracking import open_store


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/new/mlflow.db"
    open_store(uri, "saev")
    return uri
