"""Files of a stranger: what each case changes in a good one, as a table of places and values."""

import bz2
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.fakes.hostile import sparse_tar

EXPORTS = Path(__file__).parents[1] / "data" / "exports"
NAN, INF = float("nan"), float("inf")
GONE = object()
"""In place of a value: the key is taken away."""
DEEP = "[" * 200_000
CPU = ("trainer.accelerator=cpu", "evaluation.num_workers=0")


class Case(NamedTuple):
    """A command on a file of a stranger, which must be refused."""

    name: str
    make: Callable[[Path], list[str]]
    """Writes the files into an empty folder, and gives verb and overrides."""


def with_value(path: Path, place: str, value: Any) -> None:
    """Sets one value deep in a JSON file, "shards.0.name"."""
    content = node = json.loads(path.read_text())
    *parents, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    for key in parents:
        node = node[key]
    if value is GONE:
        del node[last]
    else:
        node[last] = value
    path.write_text(json.dumps(content))


def json_cases(
    kind: str, file: str, values: list[tuple[str, Any]], argv: Callable[[Path], list[str]]
) -> list[Case]:
    """A case for each place and value in a JSON file of an export."""

    def case(number: int, place: str, value: Any) -> Case:
        def make(folder: Path) -> list[str]:
            evil = Path(shutil.copytree(EXPORTS / kind, folder / "evil"))
            with_value(evil / file, place, value)
            return argv(evil)

        return Case(f"{kind} {number:03d} {place}", make)

    return [case(number, *one) for number, one in enumerate(values)]


def text_cases(kind: str, file: str, argv: Callable[[Path], list[str]]) -> list[Case]:
    """A case for each text that is no such file."""
    texts = {
        "empty": b"", "brace": b"{", "list": b"[]", "null": b"null", "number": b"5",
        "deep": DEEP.encode(), "object": b"{}", "zeros": bytes(1000), "latin": b'{"a": "\xe9"}',
        "long number": b'{"a": ' + b"9" * 5000 + b"}", "deep object": b'{"a":' * 990 + b"1" + b"}" * 990,
    }  # fmt: skip

    def case(name: str, text: bytes | None) -> Case:
        def make(folder: Path) -> list[str]:
            evil = Path(shutil.copytree(EXPORTS / kind, folder / "evil"))
            if name == "pipe":
                (evil / file).unlink()
                os.mkfifo(evil / file)
            elif text is None:
                with (evil / file).open("wb") as opened:
                    opened.truncate(1 << 36)
            else:
                (evil / file).write_bytes(text)
            return argv(evil)

        return Case(f"{kind} {file} {name}", make)

    return [case(name, text) for name, text in texts.items()] + [
        case("sparse", None), case("pipe", None)
    ]  # fmt: skip


def evaluate(folder: Path) -> list[str]:
    return ["evaluate", f"sae={folder}", *CPU]


def evaluate_head(folder: Path) -> list[str]:
    return ["evaluate", f"sae={EXPORTS / 'topk'}", f"head={folder}", *CPU]


def train(folder: Path) -> list[str]:
    return [
        "train", f"data.dir={folder}", "images.n_images=6", "images.seed=0", "model.k=4",
        "model.expansion=1", "data.batch_size=16", "data.reservoir_tokens=64", "data.num_workers=0",
        "record.num_workers=0", "trainer.max_steps=2", "trainer.val_check_interval=2",
        "trainer.log_every_n_steps=1", *CPU,
    ]  # fmt: skip


def train_other_limit(folder: Path) -> list[str]:
    """The same where statistics are taken from the tars and none of the tokens is left out."""
    return [*train(folder), "tokens.max_norm=null"]


def record(tar: Path) -> list[str]:
    return ["record", "images=webdataset", f"images.urls={tar}", "record.num_workers=0",
            "trainer.accelerator=cpu", "images.on_error=skip"]  # fmt: skip


DICTIONARY: list[tuple[str, Any]] = [
    *[("d_model", v) for v in ("128", 0, -1, 10**9, True, 128.5, None, 64)],
    *[("d_sae", v) for v in (10**9, 10**20, 20.5, -1, "20", [], 21)],
    *[("activation", v) for v in ("gelu", None, 5, [], "relu")],
    *[("k", v) for v in (None, 0, -1, 21, "4", 1.5, NAN, INF, [], True)],
    *[("max_norm", v) for v in (0, -1, NAN, INF, "x", [])],
    *[("subtract_b_dec", v) for v in ("no", 1, None)],
    *[("backbone", v) for v in (None, {}, [], "micro", 5)],
    *[("backbone.spec", v) for v in ({}, GONE, 5, None, "micro", [])],
    *[("backbone.weights", v) for v in (None, 5, [])],
    *[("backbone.weights.sha256", v) for v in (5, [], "00" * 32)],
    *[("layer", v) for v in (None, "4", 99, -1, 1.5, [], 10**20)],
    *[("tokens", v) for v in (None, {}, [], "patch", 5)],
    *[("tokens.which", v) for v in ("words", "registers", "pooled", None, 5, ["patch"])],
    *[("images", v) for v in (None, [], "scenes", 5, {})],
    *[("recipe", v) for v in ([], "x", {"a": NAN})],
    *[("format_version", v) for v in (2, 0, "1", GONE, None, True, 1.5)],
    ("surprise", 1),
    *[("normalization", v) for v in (GONE, None, [], {})],
    *[("normalization.mean", v) for v in ([], [0.0] * 127, "x", None, {}, [[0.0]] * 128)],
    *[("normalization.mean.5", v) for v in (NAN, INF, "x", None, 1e300, 10**400, True)],
    *[("normalization.scale", v) for v in (0, -1, NAN, INF, "x", None, [1.0], 10**400)],
    ("manifest_id", 5), ("manifest_sha256", []),
]  # fmt: skip
SPEC: list[tuple[str, Any]] = [
    ("family", "torch.hub"), ("family", None), ("family", GONE), ("family", ["timm"]),
    ("name", "nothing"), ("name", 5), ("name", "../micro"), ("name", "a" * 10_000),
    ("name", "hf-hub:somebody/something"), ("weights", 5), ("weights", "/dev/zero"),
    ("weights", "/etc/passwd"), ("weights", "nowhere.pt"), ("weights", "object"), ("weights", {}),
    ("layer", "x"), ("seed", -1), ("seed", "x"), ("image_size", 10**6), ("image_size", "x"),
    ("image_size", [96, 96, 96]), ("image_size", 97), ("crop_pct", 1e-9), ("crop_pct", NAN),
    ("mean", [NAN] * 3), ("mean", 0.5), ("std", [0.0] * 3), ("std", ["a"] * 3),
    ("interpolation", "magic"), ("resize", 5), ("pretrained_tag", "x"), ("model_config", "/etc/passwd"),
    ("model_kwargs", {"depth": 10**9}), ("model_kwargs", {"embed_dim": 10**5}), ("model_kwargs", []),
    ("model_kwargs", {"checkpoint_path": "x"}), ("model_kwargs", {"img_size": 10**6}),
    ("model_kwargs", {"num_heads": 0}), ("model_kwargs", {"act_layer": "os.system"}),
    ("model_kwargs", {"patch_size": 0}), ("model_kwargs", {"num_classes": 10**9}),
    ("model_kwargs", {"pretrained_cfg": {"url": "http://127.0.0.1:9/x.pth"}}),
    ("_target_", "os.system"), ("trust_remote_code", True),
]  # fmt: skip
IMAGES: list[Any] = [
    {"_target_": "os.system", "command": "touch ran"},
    {"_target_": "subprocess.run", "args": ["touch", "ran"]},
    {"_target_": "pandas.read_pickle", "filepath_or_buffer": "x.pkl"},
    {"_target_": "datamodules.images.tars._run_pipe", "url": "pipe:touch ran", "path": "p"},
    {"kind": "webdataset", "urls": "pipe:touch ran", "cache_dir": "cache"},
    {"kind": "webdataset", "urls": ["pipe:touch ran"], "cache_dir": "cache"},
    {"kind": "webdataset", "urls": "{pipe:touch ran,x.tar}", "cache_dir": "cache"},
    {"kind": "webdataset", "urls": "http://127.0.0.1:9/${oc.env:HOME}.tar"},
    {"kind": "webdataset", "urls": "file:///etc/passwd"},
    {"kind": "webdataset", "urls": "/etc/passwd"},
    {"kind": "webdataset", "urls": "{0..99999999999}.tar"},
    {"kind": "webdataset", "urls": "{a,b}" * 60},
    {"kind": "webdataset", "urls": {"a": "b"}},
    {"kind": "torchvision", "dataset": "cifar10", "root": "made"},
    {"kind": "torchvision", "dataset": "__import__", "root": "."},
    {"kind": "folder", "roots": "${oc.env:HOME}/nothing"},
    {"kind": "folder", "roots": ["/dev/null"]},
    {"kind": "folder", "roots": [[]]},
    {"kind": "folder", "roots": "a\0b"},
    {"kind": "segmentation", "roots": "nowhere", "void_value": 1e9},
    {"kind": "pasted", "roots": "nowhere", "size": 10**9},
    {"kind": "scenes", "n_images": 10**12},
    {"kind": "scenes", "n_images": 6, "size": 10**6},
    {"kind": "scenes", "n_images": "6"},
    {"kind": "scenes", "n_images": NAN},
    {"kind": "scenes", "n_images": 6, "seed": -1},
    {"kind": "scenes", "n_images": 6, "val_fraction": 2},
    {"kind": "scenes", "n_images": 6, "val_fraction": "${now:}"},
    {"kind": "scenes", "n_images": 6, "_partial_": True},
    {"kind": ["scenes"]},
    {"kind": {"kind": "scenes"}},
    {"kind": "masked", "source": {}, "masks": {}},
]
HEAD: list[tuple[str, Any]] = [
    *[("kind", v) for v in ("regression", None, 5, "segmentation", "class_rows")],
    *[("features", v) for v in ("everything", 5)],
    *[("reading", v) for v in (GONE, None, [], {})],
    *[("reading.features", v) for v in ("everything", None, "patches")],
    *[("reading.grid", v) for v in ([12], "ab", [0, 12], [10**9, 10**9], [6, 6])],
    *[("reading.n_tokens", v) for v in (-1, "x", 10**12, 5)],
    *[("reading.positions", v) for v in ([10**9], [-1], "x", [0.5], [145])],
    *[("class_names", v) for v in ([0, 1, 2], [], "abc", ["a"], None, [["a"]] * 3)],
    *[("backbone", v) for v in ({}, None, [], "micro")],
    *[("backbone.spec", v) for v in (GONE, {}, 5)],
    *[("backbone.weights.sha256", v) for v in ("00" * 32, 5, [])],
    *[("logit_scale", v) for v in (NAN, "x", 1.0)],
    *[("recipe", v) for v in ([], "x", None)],
    *[("recipe.images", v) for v in ("scenes", 5, {"kind": "os.system"}, IMAGES[4], IMAGES[7])],
    *[("format_version", v) for v in (2, None, "1", GONE)],
]  # fmt: skip
MANIFEST: list[tuple[str, Any]] = [
    *[("dtype", v) for v in ("int8", "float64", None, 5, "float32", "object")],
    *[("width", v) for v in (64, 0, -1, "128", 10**12, 128.5)],
    *[("layer", v) for v in (3, "4", -1, None)],
    *[("grid", v) for v in ([12], None, "ab", [-1, 12])],
    *[("token_names", v) for v in (None, "patch", [], [5])],
    *[("tokens", v) for v in (None, {}, [], {"which": 5})],
    *[("backbone", v) for v in (None, [], {"name": 5})],
    *[("backbone.weights.sha256", v) for v in ("00" * 32, 5)],
    *[("images", v) for v in (None, 5)], *[("transform", v) for v in (None, [])],
    *[("class_names", v) for v in (5, [5])], *[("skipped", v) for v in (None, [5])],
    *[("recording", v) for v in (None, [])], ("id", None), ("id", []), ("surprise", 1),
    *[("format_version", v) for v in (2, 0, None, "1", GONE)],
    *[("shards", v) for v in (None, {}, [5], [], "x")],
    *[("shards.0", v) for v in (None, {}, [])],
    *[("shards.0.name", v) for v in (5, "", "..", "/etc/passwd", "../x.tar", "a\0b", "heldout-000000.tar")],
    *[("shards.0.split", v) for v in ("test", None, 5, "heldout")],
    *[("shards.0.n_images", v) for v in (4, -1, "5", NAN, 10**15)],
    *[("shards.0.n_tokens", v) for v in (79, -1, "80", 10**15, 10**18)],
    *[("shards.1.n_tokens", v) for v in (10**15, 17, 10**9)],
    *[("shards.0.n_bytes", v) for v in (1, -1, None, 10**30)],
    *[("shards.0.sha256", v) for v in (5, "00" * 32)],
    *[("statistics", v) for v in (None, {}, [])],
    *[("statistics.mean", v) for v in ([], [0.0], "x", None, [NAN] * 128, [[0.0]] * 128)],
    *[("statistics.mean.3", v) for v in (NAN, INF, "x", None)],
    *[("statistics.scale", v) for v in (0, -1, NAN, "x", None)],
    *[("statistics.max_norm", v) for v in (NAN, "x", 0, -5)],
    *[("statistics.median_norm", v) for v in (NAN, "x", -1)],
    *[("statistics.n_normal", v) for v in (0, 81, "80", 10**15)],
    *[("statistics.n_tokens", v) for v in (0, 81, None)],
    *[("statistics.n_normal_per_shard", v) for v in ([], [80, 80], "x", [NAN], [-1], [81])],
    ("statistics.surprise", 1),
]  # fmt: skip
HYPOTHESIS = [
    "", "5", "- a", "[" * 20_000, "{a: " * 900, "a: b: c", "!!python/object/apply:os.system [ls]",
    "concept: 5", "concept: []", "concept: [[a]]", "concept: {a: b}", "concept: null",
    "edit: x", "edit: {kind: set}", "edit: {kind: set, scale: .nan}", "edit: {kind: set, scale: x}",
    "edit: {kind: set, scale: .inf}", "edit: {kind: rm}", "edit: {kind: set, scale: 1, where: 5}",
    "edit: {kind: set, scale: 1, where: {patches: [x]}}", "edit: {kind: swap, source: 1}",
    "doses: [.nan, 1, 2]", "doses: x", "doses: [[1]]", "doses: 1e999",
    "directions: 1000000", "alpha: 1.0e-300", "untrained: 1000000", "smallest_effect: .nan",
    "smallest_effect: x", "smallest_effect: -1", "alpha: .nan", "alpha: 0", "alpha: []", "alpha: true",
    "images: {n_test: -1}", "images: {test: 5}", "images: {discovery: [a], test: [a]}", "images: x",
    "images: {test: [nothing]}", "support: {n_test_units: x}", "support: {purity: .nan}",
    "support: {purity: 5}", "support: []", "seed: -1", "seed: x", "seed: 1.5", "layer: x", "layer: 2",
    "tokens: 5", "tokens: [5]", "tokens: words", "draws: -1", "draws: .inf", "draws: x",
    "shuffles: 0", "shuffles: 1000000000", "untrained: -1", "untrained: x", "calibration: x",
    "placebo: -1", "power: x", "max_ratio: .nan", "max_ratio: 1", "directions: 0", "baselines: 5",
    "baselines: [magic]", "mode: 5", "metric: 5", "direction: up", "latents: x", "latents: [x]",
    "latents: {circle: [-1]}", "latents: {circle: [99]}", "latents: {nothing: [1]}",
    "selector: 5", "selector: {n: 0}", "selector: {n: x}", "selector: {by: luck}",
    "selector: {best_of: .nan}", "table: {scales: [.inf]}", "table: {draws: 0}", "table: 5",
    "tradeoff: {doses: [0]}", "tradeoff: {doses: [.nan]}", "surprise: 1", "1: 2", "? [a]\n: b",
    "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nconcept: [*c,*c]", "seed: 2020-01-01",
]  # fmt: skip


def weights_cases() -> list[Case]:
    def change(name: str, how: Callable[[dict[str, torch.Tensor]], Any]) -> Case:
        def make(folder: Path) -> list[str]:
            evil = Path(shutil.copytree(EXPORTS / "topk", folder / "evil"))
            path = evil / "weights.safetensors"
            tensors = load_file(path)
            result = how(tensors)
            if isinstance(result, bytes):
                path.write_bytes(result)
            else:
                save_file({k: t.contiguous() for k, t in (result or tensors).items()}, path)
            return evaluate(evil)

        return Case(f"weights {name}", make)

    whole = (EXPORTS / "topk" / "weights.safetensors").read_bytes()

    def header(content: Any) -> bytes:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        return len(text).to_bytes(8, "little") + text

    giant = {"W_enc": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}
    return [
        change("nan", lambda t: t | {"W_enc": torch.full_like(t["W_enc"], NAN)}),
        change("one nan", lambda t: t["b_dec"].__setitem__(3, NAN)),
        change("inf", lambda t: t["W_dec"].__setitem__((0, 0), INF)),
        *[change(str(d), lambda t, d=d: {k: v.to(d) for k, v in t.items()})
          for d in (torch.int32, torch.bool, torch.complex64, torch.uint8, torch.float8_e4m3fn)],
        change("transposed", lambda t: t | {"W_enc": t["W_enc"].T}),
        change("one row fewer", lambda t: t | {"W_dec": t["W_dec"][1:]}),
        change("no rows", lambda t: {k: v[:0] for k, v in t.items()}),
        change("missing", lambda t: {k: v for k, v in t.items() if k != "b_enc"}),
        change("stray", lambda t: t | {"more": torch.zeros(3)}),
        change("normalisation", lambda t: t | {"scale": torch.ones(())}),
        change("another's", lambda t: load_file(EXPORTS / "head" / "weights.safetensors")),
        change("empty", lambda t: b""), change("zeros", lambda t: bytes(5000)),
        change("cut", lambda t: whole[: len(whole) // 2]), change("longer", lambda t: whole + b"x"),
        change("endless header", lambda t: b"\xff" * 100),
        change("header of gigabytes", lambda t: (1 << 40).to_bytes(8, "little") + b"{}"),
        change("deep header", lambda t: header(b"[" * 100_000)),
        change("giant", lambda t: header(giant) + b"abcd"), change("pickle", lambda t: b"\x80\x04."),
    ]  # fmt: skip


def npy(acts: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, acts, allow_pickle=True)
    return buffer.getvalue()


def tar_of(path: Path, members: list[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE) -> bytes:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = (len(content) if kind == tarfile.REGTYPE else 0), kind
            info.linkname = "/etc/passwd" if kind != tarfile.REGTYPE else ""
            tar.addfile(info, io.BytesIO(content))
    return path.read_bytes()


def activation_tar_cases() -> list[Case]:
    """A training tar of the recording replaced, its size and hash in the manifest with it."""

    def case(name: str, fill: Callable[[Path], Any], argv=train) -> Case:
        def make(folder: Path) -> list[str]:
            evil = Path(shutil.copytree(EXPORTS / "recording", folder / "evil"))
            path = evil / "train-000000.tar"
            fill(path)
            found = path.read_bytes()
            with_value(evil / "manifest.json", "shards.0.n_bytes", max(len(found), 40_960))
            if len(found) < 40_960:
                path.write_bytes(found + bytes(40_960 - len(found)))
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            with_value(evil / "manifest.json", "shards.0.sha256", sha256)
            return argv(evil)

        return Case(f"activations {name}", make)

    def of(acts: np.ndarray | bytes, meta: bytes = b"", n: int = 5) -> Callable[[Path], Any]:
        content = acts if isinstance(acts, bytes) else npy(acts)

        def fill(path: Path) -> None:
            members = []
            for i in range(n):
                text = meta or json.dumps({"image_id": str(i), "label": None, "split": "train",
                                           "path": None, "tokens": None}).encode()  # fmt: skip
                members += [(f"{i}.acts.npy", content), (f"{i}.json", text)]
            tar_of(path, members)

        return fill

    good = np.random.default_rng(0).standard_normal((16, 128)).astype(np.float16)
    bad = good.copy()
    bad[3, 7] = NAN
    odd = {"int8": np.int8, "int32": np.int32, "bool": np.bool_, "complex": np.complex64,
           "float32": np.float32, "big endian": ">f2", "text": "<U4", "object": object}  # fmt: skip
    structured = np.zeros((16, 128), [("a", "f2")])
    packed = {"gzip": gzip.compress, "bzip2": bz2.compress}
    return [
        *[case(name, of(good.astype(dtype))) for name, dtype in odd.items()],
        *[case(f"width {w}", of(np.ones((16, w), np.float16))) for w in (1, 64, 0, 256)],
        case("rows 0", of(good[:0])), case("rows 15", of(good[:15])), case("flat", of(good.ravel())),
        case("three axes", of(good[None])), case("fortran", of(np.asfortranarray(good))),
        case("structured", of(structured)), case("no array", of(b"nothing")),
        case("header in code", of(b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').system('ls')\n  ")),
        case("deep header", of(b"\x93NUMPY\x01\x00\x00\x20" + b"(" * 8192)),
        case("endless shape", of(npy(good).replace(b"(16, 128)", b"(9**9, 9)"))),
        case("nan", of(bad)), case("nan without limit", of(bad), train_other_limit),
        case("inf without limit", of(np.where(np.isnan(bad), INF, bad).astype(np.float16)),
             train_other_limit),
        *[case(f"meta {i}", of(good, meta)) for i, meta in enumerate((
            b"[]", b"{}", b"{", DEEP.encode(), b'{"image_id": 5}', b'{"image_id": "a", "label": "x"}',
            b'{"image_id": "a", "tokens": [1]}', b'{"image_id": "' + b"a" * (1 << 20) + b'"}'))],
        case("too few", of(good, n=4)), case("too many", of(good, n=6)),
        *[case(f"sparse {n >> 30} GB", lambda p, n=n: sparse_tar(p, {"0.acts.npy": n, "0.json": 10}))
          for n in (3 << 30, 1 << 40)],
        *[case(name, lambda p, pack=pack: (of(good)(p), p.write_bytes(pack(p.read_bytes()))))
          for name, pack in packed.items()],
        *[case(f"outside {name}", lambda p, name=name: tar_of(p, [(name, b"x")]))
          for name in ("../evil", "/evil", "a/../../b")],
        *[case(f"type {kind!r}", lambda p, kind=kind: tar_of(p, [("0.acts.npy", b"")], kind))
          for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)],
        case("zeros", lambda p: p.write_bytes(bytes(40_960))),
        case("noise", lambda p: p.write_bytes(np.random.default_rng(0).bytes(40_960))),
    ]  # fmt: skip


def image_tar_cases() -> list[Case]:
    from PIL import Image

    def picture(width: int = 8, height: int = 8) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), (9, 99, 199)).save(buffer, "PNG")
        return buffer.getvalue()

    def case(name: str, fill: Callable[[Path], Any]) -> Case:
        def make(folder: Path) -> list[str]:
            fill(folder / "x.tar")
            return record(folder / "x.tar")

        return Case(f"images {name}", make)

    def labelled(suffix: str, content: bytes) -> Callable[[Path], Any]:
        return lambda p: tar_of(p, [("0.png", picture()), (f"0.{suffix}", content),
                                    ("1.png", picture())])  # fmt: skip

    return [
        *[case(f"sparse {name} {n >> 30} GB", lambda p, name=name, n=n: sparse_tar(p, {name: n}))
          for name in ("a.json", "a.cls", "z.png") for n in (3 << 30, 1 << 40)],
        *[case(f"label {label[:20]!r}", labelled("cls", label)) for label in (
            b"1000000000", b"100000000", b"9" * 5000, b"\xff\xfe", b"a" * 2000)],
        *[case(f"record {text[:20]!r}", labelled("json", text)) for text in (
            DEEP.encode(), b"{", b'{"label": []}', b'{"label": 1e400}', b'{"label": "\\ud800"}',
            b'{"label": 1000000000}', b" " * (2 << 20))],
        *[case(f"outside {name}", lambda p, name=name: tar_of(p, [(name, picture())]))
          for name in ("../0.png", "/0.png", "a/../../0.png")],
        *[case(f"type {kind!r}", lambda p, kind=kind: tar_of(p, [("0.png", b"")], kind))
          for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)],
        case("not UTF-8", lambda p: tar_of(p, [("caf\udce9.png", picture())])),
        case("twice", lambda p: tar_of(p, [("0.png", picture())] * 2)),
        case("no images", lambda p: tar_of(p, [("0.txt", b"x")])),
        case("gzip", lambda p: p.write_bytes(gzip.compress(tar_of(p, [("0.png", picture())])))),
        case("cut", lambda p: p.write_bytes(tar_of(p, [("0.png", picture())])[:700])),
        case("empty", lambda p: p.write_bytes(b"")), case("zeros", lambda p: p.write_bytes(bytes(9999))),
        case("thin images alone", lambda p: tar_of(p, [("0.png", picture(2_000_000, 1)),
                                                       ("1.png", picture(1, 80_000))])),
    ]  # fmt: skip


def hypothesis_cases() -> list[Case]:
    def case(number: int, text: str) -> Case:
        def make(folder: Path) -> list[str]:
            (folder / "h.yaml").write_text(text)
            return ["intervene", f"sae={EXPORTS / 'topk'}", f"hypothesis={folder / 'h.yaml'}",
                    "head=attributes", "trainer.accelerator=cpu", "intervention.num_workers=0"]  # fmt: skip

        return Case(f"hypothesis {number:03d} {text[:30]!r}", make)

    return [case(number, text) for number, text in enumerate(HYPOTHESIS)]


def atlas_cases() -> list[Case]:
    """Questions to an atlas of two latents, one file of which is another."""
    import pandas as pd

    tables: dict[str, dict[str, list[Any]]] = {
        "latents": {"latent": [0, 1], "name": ["tabby", None], "name_confidence": [0.8, 0.0],
                    "rate_image": [0.5, 0.1]},
        "concepts": {"latent": [1], "concept": ["dog"], "split": ["test"], "f1": [0.9]},
        "exemplars": {"latent": [0], "role": ["max"], "rank": [0], "image_id": ["cat/0"]},
        "names": {"latent": [0], "proposer": ["vote"], "rank": [0], "name": ["tabby"],
                  "confidence": [0.8]},
        "coactivation": {"latent": [0], "kind": ["atom"], "rank": [0], "neighbour": [1]},
    }  # fmt: skip

    def case(file: str, content: bytes | dict[str, list[Any]], query: str) -> Case:
        def make(folder: Path) -> list[str]:
            atlas = folder / "latents"
            atlas.mkdir()
            for name, columns in tables.items():
                pd.DataFrame(columns).to_parquet(atlas / f"{name}.parquet")
            (atlas / "images.json").write_text('[{"image_id": "cat/0"}]')
            (atlas / "atlas.json").write_text('{"grid": [2, 2]}')
            if isinstance(content, bytes):
                (atlas / file).write_bytes(content)
            else:
                pd.DataFrame(content).to_parquet(atlas / file)
            return ["describe", f"atlas_dir={folder}", f"query='{query}'"]

        return Case(f"atlas {file} {content!r:.40} {query}", make)

    grid = [
        b"{}",
        b"[]",
        b'{"grid": 5}',
        b'{"grid": [0, 1]}',
        b'{"grid": "ab"}',
        DEEP.encode(),
        b"",
    ]
    images = [b"{}", b"[]", b"[5]", b'[{"image_id": 5}]', DEEP.encode(), b"\xff"]
    wrong = [b"", b"PAR1PAR1", {}, {"latent": ["x"]}, {"a": [1]}]
    good = b'{"grid": [2, 2]}'
    return [
        *[case("atlas.json", content, "tabby") for content in grid],
        *[case("images.json", content, "tabby") for content in images],
        *[case(f"{name}.parquet", content, "tabby") for name in tables for content in wrong],
        case("names.parquet", {key: [[1]] for key in tables["names"]}, "tabby"),
        *[case("atlas.json", good, query) for query in (
            "patches:", "patches: cat/0", "patches: cat/0 0.1", "images: a", "images: a against b",
            "near: x", "near: 99", "concept: nothing",
            "near: " + "9" * 5000, "concept: " + "x" * 9999, "concept:", "unnamed:", "patches: cat/0 1")],
    ]  # fmt: skip


def sweep_cases() -> list[Case]:
    """A sweep of one member, one file of which is another."""

    def case(file: str, text: str) -> Case:
        def make(folder: Path) -> list[str]:
            member = folder / "sweep" / "0_k=4"
            shutil.copytree(EXPORTS / "topk", member / "sae")
            (member / "metrics.json").write_text(json.dumps(good))
            (member / "config.yaml").write_text("model: {k: 4}\n")
            (member / file).write_text(text)
            return ["evaluate", f"sweep={folder / 'sweep'}"]

        return Case(f"sweep {file} {text[:20]!r}", make)

    config = json.loads((EXPORTS / "topk" / "config.json").read_text())
    good = dict.fromkeys(
        ("val/l0", "val/explained_variance", "val/dead_fraction", "val/dense_fraction"), 0.5
    )
    texts = {
        "metrics.json": ["", "[]", "{}", '{"val/l0": "abc"}', '{"val/l0": NaN}', DEEP,
                         *[json.dumps(good | {f"val/{key}": value}) for key, value in (
                             ("dead_fraction", 5), ("l0", -3), ("nmse", 10**400))]],
        "config.yaml": ["", "- a", "[" * 5000, "5", "!!python/object/apply:os.system [ls]",
                        "a: &a [x,x]\nb: &b [*a,*a]\n", "trainer: [1]",
                        "trainer: {max_steps: x}", "model: {optimizer: {lr: [1]}}"],
        "sae/config.json": ["{}", "[]", json.dumps(config | {"tokens": None}),
                            json.dumps(config | {"backbone": {}}), json.dumps(config | {"layer": "x"})],
    }  # fmt: skip
    return [case(file, text) for file, found in texts.items() for text in found]


def image_spec_cases() -> list[Case]:
    cases = [json_cases("topk", "config.json", [("images", spec)], evaluate)[0] for spec in IMAGES]
    return [Case(f"images named {n:03d}", case.make) for n, case in enumerate(cases)]


def foreign_cases() -> list[Case]:
    """All of them."""
    spec = [(f"backbone.spec.{key}", value) for key, value in SPEC]
    found = [
        *json_cases("topk", "config.json", DICTIONARY, evaluate),
        *[Case(f"spec {c.name}", c.make) for c in json_cases("topk", "config.json", spec, evaluate)],
        *text_cases("topk", "config.json", evaluate), *image_spec_cases(), *weights_cases(),
        *json_cases("head", "config.json", HEAD, evaluate_head),
        *text_cases("head", "config.json", evaluate_head),
        *json_cases("recording", "manifest.json", MANIFEST, train),
        *text_cases("recording", "manifest.json", train), *activation_tar_cases(),
        *image_tar_cases(), *hypothesis_cases(), *atlas_cases(), *sweep_cases(),
    ]  # fmt: skip
    return [Case(f"{number:03d} {case.name}", case.make) for number, case in enumerate(found)]
