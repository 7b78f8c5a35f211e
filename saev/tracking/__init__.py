"""The MLflow store and its runs, provenance, and what a command says on screen.

Importing this package imports neither mlflow nor Lightning.
"""

from saev.tracking.console import override as override
from saev.tracking.console import print_next as print_next
from saev.tracking.console import print_table as print_table
from saev.tracking.entry import command as command
from saev.tracking.entry import refuse_multirun_ddp as refuse_multirun_ddp
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
from saev.tracking.store import open_store as open_store
