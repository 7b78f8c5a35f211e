"""``python -m saev.explore sae=DIR``: look into a dictionary in the browser, edit, and see what changes.

Serves one page on 127.0.0.1 until Ctrl-C. Without arguments it opens the newest dictionary that
``make demo`` left.
"""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.cli.command import command
from saev.cli.console import print_next
from saev.errors import UserError


def newest_dictionary(outputs: Path) -> Path:
    """The dictionary of the latest training run below ``outputs``.

    Raises:
        UserError: there is none yet.
    """
    found = (outputs / "runs" / "train").glob("*/sae/config.json")
    newest = max(found, key=lambda file: (file.stat().st_mtime, file), default=None)
    if newest is None:
        raise UserError(
            f"there is no dictionary below {outputs / 'runs' / 'train'} yet: run `make demo` first, "
            "or give sae=DIR"
        )
    return newest.parent


@command("explore")
def main(cfg: DictConfig) -> None:
    from saev.exploration.app.serve import ExplorerServer, listen, require_gradio

    if isinstance(cfg.atlas, DictConfig):
        raise UserError(
            "atlas is not allowed to be a mapping here; give the run folder of saev.describe"
        )
    sae = Path(cfg.sae) if cfg.sae is not None else newest_dictionary(Path(cfg.paths.outputs))
    require_gradio()
    listen(cfg.host, cfg.port).close()  # a taken port is said before the model is loaded
    from saev.cli.results import device_of
    from saev.exploration.explorer import Explorer

    explorer = Explorer.open(
        str(sae) if cfg.sae is None else cfg.sae,
        head=cfg.head,
        atlas=cfg.atlas,
        images=instantiate(cfg.images) if cfg.images is not None else None,
        n_images=cfg.n_images,
        verdicts=cfg.verdicts,
        also=cfg.also,
        seed=cfg.seed,
        device=device_of(cfg.trainer.accelerator),
    )
    with ExplorerServer(explorer, cfg.host, cfg.port) as server:
        print_next([f"open {server.url} in a browser; Ctrl-C here ends it"])
        server.wait()


if __name__ == "__main__":
    main()
