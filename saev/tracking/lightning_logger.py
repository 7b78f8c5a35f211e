"""Lightning's MLflow logger, writing into a run that the command owns."""

from argparse import Namespace
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger


class RunLogger(MLFlowLogger):
    """Logs metrics only: parameters, artifacts and the run's end belong to ``MLflowTracking``.

    The stock logger would mark the run as finished after the fit, while the evaluation that
    belongs to the same run is still to come.
    """

    def __init__(self, tracking_uri: str, experiment_name: str, run_id: str) -> None:
        super().__init__(
            experiment_name=experiment_name,
            tracking_uri=tracking_uri,
            run_id=run_id,
            log_model=False,
        )

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        pass

    def finalize(self, status: str = "success") -> None:
        pass
