"""The MLflow store and its runs, and where a result came from.

Importing this package imports neither mlflow nor Lightning.
"""

from saev.tracking.mlflow_store import open_store as open_store
from saev.tracking.provenance import file_sha256 as file_sha256
from saev.tracking.provenance import git_state as git_state
from saev.tracking.provenance import package_versions as package_versions
from saev.tracking.provenance import provenance_tags as provenance_tags
from saev.tracking.rank import is_main_process as is_main_process
from saev.tracking.run import PARENT_ENV as PARENT_ENV
from saev.tracking.run import MLflowTracking as MLflowTracking
from saev.tracking.run import NoTracking as NoTracking
from saev.tracking.run import Tracking as Tracking
from saev.tracking.run import status_of as status_of
