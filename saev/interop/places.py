"""Where a dictionary lies: a path, ``hub:owner/name#path``, ``owner/name``, or ``family:member``."""

import re
from pathlib import Path
from typing import NamedTuple

from saev.defaults import names
from saev.errors import UserError, first_line
from saev.interop.registry import Public, by_name
from saev.interop.weights_files import CONFIGS, NOT_WEIGHTS, OPTIMIZER, PICKLES

HUB = re.compile(r"^hub:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?:#(.+))?$")
PLAIN_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
NAMED = re.compile(r"^[\w-]+:[\w.-]*$")
BESIDE = [*NOT_WEIGHTS, *(f"{start}*" for start in OPTIMIZER)]
"""What training leaves beside the weights."""
FILES = [*CONFIGS, "*.safetensors", *(f"*{suffix}" for suffix in PICKLES)]


class Located(NamedTuple):
    """Files on this machine, and what is known of them by name."""

    path: Path
    public: Public | None


def locate(source: str | Path) -> Located:
    """The files that ``source`` names, downloaded where they lie on the hub.

    Raises:
        UserError: nothing there, no such name, or a hub that does not answer.
    """
    text = str(source)
    path = Path(source).expanduser()
    if path.exists():
        return Located(path, None)
    if (found := HUB.match(text)) is not None:
        return Located(snapshot(found[1], found[3], found[2]), None)
    if text.startswith("hub:"):
        raise UserError(
            f"{text} is no place on the hub; write hub:owner/name or hub:owner/name#folder"
        )
    if NAMED.match(text) or text in names("pretrained"):
        public = by_name(text)
        values = public.values
        return Located(snapshot(values["hub"], values.get("path"), values.get("revision")), public)
    if PLAIN_ID.match(text) and not text.startswith("."):
        return Located(snapshot(text, None, None), None)
    raise UserError(
        f"{text} does not exist; give the folder or file of a dictionary, hub:owner/name#folder, or a name "
        "that python -m saev.convert list=true shows"
    )


def snapshot(repo_id: str, inside: str | None, revision: str | None) -> Path:
    """A repository's settings and weights, or those of one folder or file of it.

    Raises:
        UserError: the hub does not answer, or holds nothing there.
    """
    from huggingface_hub import snapshot_download

    inside = "" if inside is None else inside.strip("/")
    if ".." in inside.split("/") or inside.startswith("~"):
        raise UserError(f"{inside} leaves the repository {repo_id}; give a folder or file in it")
    is_file = inside.endswith((".safetensors", *PICKLES))
    folder = inside.rpartition("/")[0] if is_file else inside
    below = f"{folder}/" if folder else ""
    wanted = [f"{below}{name}" for name in FILES] if not is_file else [
        inside, *(f"{below}{name}" for name in CONFIGS)
    ]  # fmt: skip
    # a star of the hub's patterns goes through slashes: folders further down hold other dictionaries
    left = [f"{below}*/*", *(f"{below}{name}" for name in BESIDE)]
    try:
        root = Path(
            snapshot_download(
                repo_id, revision=revision, allow_patterns=wanted, ignore_patterns=left
            )
        )
    except Exception as error:  # the hub's errors have no useful common base
        raise UserError(
            f"{repo_id} is neither a local folder nor a repository the hub gives out "
            f"({first_line(error)}); check the name and the network."
        ) from error
    path = root / inside
    if not path.exists():
        raise UserError(f"{repo_id} on the hub holds no {inside}; look at its list of files.")
    return path
