"""``saev.explore(...)``: the explorer from Python, shown in a notebook by itself."""

from pathlib import Path
from typing import TYPE_CHECKING

from saev.exploration.app.serve import ExplorerServer, require_gradio
from saev.exploration.explorer import Explorer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from saev.backbones import Backbone
    from saev.sae import SparseAutoencoder
    from saev.sources import Images


def explore(
    sae: "SparseAutoencoder | str | Path",
    head: "str | Path | None" = None,
    atlas: "str | Path | None" = None,
    images: "Images | None" = None,
    *,
    backbone: "Backbone | nn.Module | str | None" = None,
    n_images: int = 200,
    seed: int = 0,
    host: str = "127.0.0.1",
    port: int = 0,
    device: "str | torch.device | None" = None,
    verdicts: "str | Path | None" = None,
    also: "SparseAutoencoder | str | Path | None" = None,
) -> ExplorerServer:
    """Opens the explorer of a dictionary in the background, as ``python -m saev.explore`` does.

    Args:
        sae: a dictionary, its folder, or its id on the hub.
        head: folder of a trained head, or "classifier", "zero_shot", "attributes"; None: what the model
            comes with.
        atlas: run folder of a description, or its ``latents/``, for names; None: no names.
        images: a source, its name or a folder; None: what the dictionary was trained on.
        backbone: the model; None: the one that the dictionary names.
        n_images: training images read at the start, for how often and how strongly latents fire.
        seed: of the control edits.
        host, port: where it listens; port 0 takes a free one.
        device: where the model runs; None: a GPU where there is one.
        verdicts: folder with runs of ``saev.intervene``: what experiments said of the latents.
        also: a second dictionary, of the same model or another, laid beside the first.

    Returns:
        The running server: a notebook shows its page, ``url`` is its address, ``close()`` ends it.

    Raises:
        UserError: gradio is not installed, the port is taken, or what :meth:`Explorer.open` cannot open.
    """
    require_gradio()
    explorer = Explorer.open(
        sae, head, atlas, images,
        backbone=backbone, n_images=n_images, seed=seed, device=device,
        verdicts=verdicts, also=also,
    )  # fmt: skip
    return ExplorerServer(explorer, host, port)
