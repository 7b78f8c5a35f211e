"""conf/allowed.yaml: an entry for every key, a key for every entry, and what the entries mean."""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from saev.cli.refusals import (
    _is,
    _matches,
    allowed_values,
    refuse_missing,
    refuse_values,
    rule_of,
)
from saev.cli.shared_launcher import register_launcher
from saev.defaults import CONF_DIR, conf_node
from saev.errors import UserError
from tests.fakes.commands import Run

KINDS = {"any", "null", "node", "as", "flag", "string", "path", "target", "list", "mapping",
         "whole", "number"}  # fmt: skip


def keys_of_files() -> dict[str, Any]:
    """Dotted key → a value it has, of every node and leaf of every file that composes."""
    found: dict[str, Any] = {}
    for path in sorted(CONF_DIR.rglob("*.yaml")):
        room = path.relative_to(CONF_DIR).parts[0]
        if room in ("hypotheses", "pretrained", "allowed.yaml"):
            continue
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        everywhere = path.parent == CONF_DIR or "@package _global_" in path.read_text()
        found |= dict(leaves(content, "" if everywhere else f"{room}."))
    return found


def leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        rule = rule_of(key)
        if name == "defaults" or (key.startswith("hydra.") and rule == "any"):
            continue
        inner = isinstance(value, dict) and (rule is None or re.search(r"\b(node|as \w+)$", rule))
        if not inner or rule is not None:
            yield key, {} if inner else value
        if inner:
            yield from leaves(value, f"{key}.")


KEYS = keys_of_files()


def test_every_key_has_an_entry() -> None:
    assert len(KEYS) > 200
    bare = [key for key in KEYS if rule_of(key) is None and not key.startswith("hydra.")]
    assert not bare, f"conf/allowed.yaml says nothing of {bare}"


def arguments() -> set[str]:
    """Keyword arguments of what the files name as ``_target_``, by the key they would have."""
    found = set()
    for key, target in KEYS.items():
        node, _, last = key.rpartition(".")
        if last == "_target_":
            module, _, name = str(target).rpartition(".")
            known = inspect.signature(getattr(import_module(module), name)).parameters
            found |= {f"{node}.{one}" for one in known}
    return found


@pytest.mark.slow  # imports what the files name
def test_every_entry_has_a_key() -> None:
    """Of a file, or an argument that a file could give."""
    register_launcher()
    nodes = {key.rpartition(".")[0] for key in KEYS}
    known = (
        KEYS.keys()
        | nodes
        | {"concept_images", "transfer_images", "hydra.hydra_logging", "hydra.job_logging"}
    )
    known |= {"hydra.sweeper.params", "hydra.launcher.resume", *arguments()}
    rate = {f"model.learning_rate.{key}" for key in ("decay_shape", "reference_width")}
    idle = [
        pattern
        for pattern in allowed_values()
        if pattern not in known | rate and not any(_matches(pattern, key) for key in known)
    ]
    assert not idle, f"conf/allowed.yaml has entries for what is not there: {idle}"


def test_entries_are_well_formed_and_allow_what_the_files_say() -> None:
    for key, rule in allowed_values().items():
        for one in rule.split("|"):
            kind, _, rest = one.strip().partition(" ")
            assert kind in KINDS or not rest, f"{key}: {one!r} is no word and no kind"
            if kind in ("list", "mapping"):
                assert rest.startswith("of ") and (rest.split()[1] in KINDS or "/" in rest), (
                    f"{key}: {one!r}"
                )
    for key, value in KEYS.items():
        rule = rule_of(key)
        if rule is None or value == "???" or "${" in str(value):
            continue
        assert any(_is(one.strip(), value) for one in rule.split("|")), f"{key}={value}: {rule}"


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("whole from 1 to 9", (1, 9), (0, 10, 1.0, True, "1", None, float("nan"))),
        ("number above 0 below 1", (0.5,), (0, 1, float("nan"), float("inf"), "0.5", True)),
        ("number", (-1, 0.5), (float("inf"), float("nan"), "1", [1])),
        ("flag", (True, False), (1, 0, "true", None)),
        ("path", ("a", ".", "hf-hub:a/b"), ("", "  ", 5, None, "a\0b", ["a"])),
        ("list of whole from 0", ([], [0, 3]), (0, [-1], [0.5], ["a"], {"a": 0})),
        ("mapping of path", ({}, {"a": "b"}), ({"a": ""}, {"a": 5}, ["a"], "a")),
        ("list of a/b", ([], ["a", "b"]), (["a/b"], ["c"], "a")),
        ("bf16", ("bf16",), ("BF16", 16, None)),
        ("32", ("32", 32), (32.5, "32-true", None)),
        ("null", (None,), ("null", 0, "")),
    ],
)
def test_what_a_rule_means(rule: str, good: tuple[Any, ...], bad: tuple[Any, ...]) -> None:
    assert [value for value in good if not _is(rule, value)] == []
    assert [value for value in bad if _is(rule, value)] == []


def test_proposers_are_those_that_there_are() -> None:
    from saev.atlas.names.proposers import PROPOSERS

    assert allowed_values()["naming.proposers"] == f"list of {'/'.join(PROPOSERS)}"


def test_a_refusal_names_key_value_and_what_is_allowed() -> None:
    cfg = OmegaConf.create({"trainer": {"devices": 0}})
    with pytest.raises(UserError) as refused:
        refuse_values(cfg)
    assert str(refused.value) == (
        "trainer.devices=0 is not allowed; it may be auto, a whole number from 1 to 1024, -1 or "
        "a list of whole numbers from 0 to 1023"
    )
    for key, value in (("more_images", {"a": {"roots": [""]}}), ("embedder", {"layer": "x"})):
        with pytest.raises(UserError, match=rf"{key}\..*is not allowed"):
            refuse_values(OmegaConf.create({key: value}))


def test_what_the_table_does_not_know_is_left_alone() -> None:
    refuse_values(OmegaConf.create({"mine": {"x": "", "_target_": "a.b"}, "trainer": {"y": -1}}))


GOOD = {
    "train": """
        seed=4294967295 name=5 name=2e3 tokens.max_norm=null tokens.n_per_image=7 record.layers=[-1,0]
        record.precision=32 record.precision=bf16 record.num_workers=0 data.num_workers=0 data.max_norm=null
        trainer.devices=auto trainer.devices=[0,1] trainer.devices=-1 trainer.precision=32
        trainer.precision=bf16-mixed trainer.max_steps=-1 trainer.gradient_clip_val=null
        trainer.gradient_clip_val=0 trainer.num_sanity_val_steps=-1 +trainer.strategy=ddp
        +trainer.limit_val_batches=0.5 +trainer.accumulate_grad_batches=2 +trainer.deterministic=true
        callbacks.best=null +callbacks.mine=null callbacks.progress.refresh_rate=0 model.k=1.5
        model.d_sae=512 model.expansion=0.5 model.expansion=null model.k_aux=64 model.optimizer.lr=1e-3
        model.optimizer.lr=auto model.learning_rate=null +model.learning_rate.decay_shape=cosine
        images.roots=photos images.urls=pipe:cat images.classes=[a,b] backbone.layer=0
        backbone.weights=random +backbone.image_size=[224,160] paths.outputs=/tmp/x data.dir=s3://a/b
        logger.tracking_uri=http://127.0.0.1:5000 model=pca task=head task=class_rows trainer=ddp
        """,
    "evaluate": "sae=owner/name images=folder baselines.kinds=all baselines.kinds=[raw,pca] "
    "+baselines.trained.a=b +choice.where.backbone.layer=10 images@concept_images=scenes sweep=abc123 "
    "benchmark=visaebench images@transfer_images=scenes embedder={family:micro} visaebench.ks=[1,2]",
    "describe": "query=star query=5 atlas.shard=[1,4] +atlas.tables.a=b.csv embedder={family:micro} "
    "+more_images.a=null naming.strength=-2 atlas.baseline_images=0 pages.n_latents=3",
    "compare": "saes=[a,b] names=[x,y] weights=[a,b] comparison.n_drives=0 comparison.rows=patch",
    "intervene": "head=classifier concepts=all concepts=[cat,dog] placebo=0 hypothesis=scenes",
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", GOOD)
def test_what_has_a_meaning_is_allowed(verb: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for one in GOOD[verb].split():
            source = {
                "images.urls": "webdataset",
                "images.classes": "webdataset",
                "images.roots": "folder",
            }
            chosen = [f"images={source[key]}"] if (key := one.partition("=")[0]) in source else []
            refuse_values(compose(verb, overrides=[*chosen, one], return_hydra_config=True))


@pytest.mark.parametrize("override", ["paths.outputs=", "record.batch_size=0", "hydra.run.dir="])
def test_nothing_is_written_on_refusal(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status = run("train", override)
    assert isinstance(status, str) and f"{override} is" in status.replace("=''", "=")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "override",
    ["~callbacks", "callbacks=[]", "model=5", "images=null", "~data.batch_size", "~evaluation"],
)
def test_what_a_command_needs_cannot_be_taken_away(run: Run, tmp_path: Path, override: str) -> None:
    status = run("train", override)
    assert isinstance(status, str) and override in status
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_is_still_missing_is_for_the_command_to_ask_for() -> None:
    node = OmegaConf.merge(conf_node("intervene"), {"sae": "nowhere"})
    assert isinstance(node, DictConfig) and OmegaConf.is_missing(node, "head")
    refuse_missing(node, "intervene")
    del node["head"]
    with pytest.raises(UserError, match="head is missing"):
        refuse_missing(node, "intervene")
