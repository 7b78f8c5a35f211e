"""Tracking: the MLflow store, its runs, other loggers, provenance.

run: one MLflow run per command, or none
logger_run: a run behind one of Lightning's loggers instead
tensorboard_run: event files for TensorBoard
wandb_run: a run of Weights & Biases
outbox: what a store that has gone away is still to get
mlflow_store: the one place that opens the store
sweeps: a sweep read back from the store, and the model registry
lightning_logger: Lightning's logger in a run that the command owns
provenance: code, versions and files behind a result
ui: the MLflow UI on this machine

Importing this package imports neither mlflow nor Lightning.
"""

from saev.tracking.run import PARENT_ENV as PARENT_ENV
from saev.tracking.run import MLflowTracking as MLflowTracking
from saev.tracking.run import NoTracking as NoTracking
from saev.tracking.run import Tracking as Tracking
from saev.tracking.run import is_main_process as is_main_process
from saev.tracking.run import status_of as status_of
