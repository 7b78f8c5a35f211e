"""``python -m saev.tracking.ui``: the MLflow UI on this machine, on the store the runs write to."""

import argparse
import os
import signal
import subprocess
import sys

from rich.console import Console

from saev.errors import UserError
from saev.tracking.mlflow_store import open_store


def main(arguments: list[str] | None = None) -> int:
    """Opens the store, creating it if need be, and serves the UI on 127.0.0.1 until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m saev.tracking.ui", description=__doc__)
    parser.add_argument("--uri", default="sqlite:///outputs/mlflow.db", help="tracking store")
    parser.add_argument("--experiment", default="saev", help="MLflow experiment to show")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        experiment_id = open_store(options.uri, options.experiment)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.uri.startswith(("http://", "https://")):
        console.print(f"{options.uri.rstrip('/')}/#/experiments/{experiment_id}")
        return 0
    console.print(f"http://127.0.0.1:{options.port}/#/experiments/{experiment_id}  (Ctrl-C ends)")
    return serve(options.uri, options.port)


def serve(uri: str, port: int) -> int:
    """Runs MLflow's server until Ctrl-C or SIGTERM; its exit status, 0 when it was stopped.

    The server gets a session of its own and SIGTERM in the end: after a Ctrl-C from the terminal
    ``mlflow ui`` waits for a second one.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet = {"PYTHONWARNINGS": "ignore", **os.environ}  # deprecations inside the server
    server = subprocess.Popen(command, env=quiet, start_new_session=True)
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return 0


if __name__ == "__main__":
    sys.exit(main())
