"""What goes to the hub: a folder that opens in every library it names, with a card that tells the truth."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from saev.errors import UserError
from saev.interop import open_sae
from saev.interop.hub_folder import metrics_beside, push_folder, write_hub_folder
from saev.sae import SparseAutoencoder
from tests.fakes.commands import assert_sentence, in_process

METRICS = {
    "val/explained_variance": 0.71234, "untrained/explained_variance": 0.41, "val/l0": 32.0,
    "val/dead_fraction": float("nan"), "choice": "no number", "epoch": 3,
}  # fmt: skip


def test_each_format_opens_and_says_the_same(sae_dir: Path, tmp_path: Path) -> None:
    sae = SparseAutoencoder.from_pretrained(sae_dir)
    write_hub_folder(sae, tmp_path / "out", "me/mine", ("saelens", "dictionary_learning"), METRICS)
    x = torch.randn(50, sae.cfg.d_model, generator=torch.Generator().manual_seed(0))
    expected = sae.encode(x)
    for place in (".", "saelens", "dictionary_learning"):
        found = open_sae(tmp_path / "out" / place).encode(x)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: saev\n")
    assert "| explained variance | 0.7123 | 0.41 |" in card and "| L0 | 32 | – |" in card
    assert "no number" not in card and "NMSE" not in card
    assert "nan" not in card and "dead latents" not in card
    for line in ('from_pretrained("me/mine")', "sae=hub:me/mine", 'f"{folder}/saelens"',
                 'f"{folder}/dictionary_learning"', "block 4 counted from 0"):  # fmt: skip
        assert line in card, line


def test_a_card_says_what_was_not_measured_or_written(sae_dir: Path, tmp_path: Path) -> None:
    write_hub_folder(SparseAutoencoder.from_pretrained(sae_dir), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Nothing was measured" in card and "| explained variance" not in card
    assert "saelens" not in card and "hub:" not in card and str(tmp_path / "out") in card
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "README.md", "config.json", "weights.safetensors",
    }  # fmt: skip


def test_metrics_are_those_of_the_run_or_of_what_is_given(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "sae").mkdir(parents=True)
    assert metrics_beside(None, run / "sae") is None and metrics_beside(None, "hub:me/mine") is None
    (run / "metrics.json").write_text('{"val/l0": 3}')
    for given in ((None, run / "sae"), (run, "x"), (run / "metrics.json", "x")):
        assert metrics_beside(*given) == {"val/l0": 3}
    with pytest.raises(UserError, match=r"metrics\.json"):
        metrics_beside(tmp_path, run / "sae")


def test_everything_is_uploaded_and_a_refusal_is_said(
    sae_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, set[str]] = {}

    class Api:
        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> str:
            assert private and exist_ok
            return f"https://hub/{repo_id}"

        def upload_folder(self, repo_id: str, folder_path: str, allow_patterns: list[str]) -> None:
            if repo_id == "me/not-mine":
                raise OSError("403 forbidden")
            root = Path(folder_path)
            files = [str(f.relative_to(root)) for f in root.rglob("*") if f.is_file()]
            sent[repo_id] = set(filter_repo_objects(files, allow_patterns=allow_patterns))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    run = tmp_path / "run"
    run.mkdir()
    (run / "sae").symlink_to(sae_dir)
    (run / "metrics.json").write_text(json.dumps({"val/l0": 31.5}))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "diary.txt").write_text("of somebody who writes into a folder in use")
    status = in_process(
        "convert", f"sae={run}/sae", f"out={tmp_path}/hub", "push=me/mine", "beside=[saelens]",
        "private=true", "overwrite=true",
    )  # fmt: skip
    assert status is None
    assert sent["me/mine"] == {
        "README.md", "config.json", "weights.safetensors", "saelens/cfg.json",
        "saelens/sae_weights.safetensors",
    }  # fmt: skip
    assert "| L0 | 31.5 | – |" in (tmp_path / "hub" / "README.md").read_text()
    with pytest.raises(UserError, match=r"me/not-mine could not be uploaded.*403"):
        push_folder(tmp_path / "hub", "me/not-mine", private=True)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("push=nowhere",), ("push='nowhere'", "owner/name")),
        (("push=a/b/c",), ("owner/name",)),
        (("beside=[onnx]",), ("beside='onnx'", "saelens, dictionary_learning")),
        (("beside=[saelens]", "to=saelens"), ("to=saelens",)),
        (("push=me/mine", "metrics=nowhere"), ("nowhere",)),
        (("metrics=nowhere",), ("push=", "beside=")),
        (("private=true",), ("push=owner/name",)),
    ],
)
def test_refused_before_anything_is_written(
    sae_dir: Path, tmp_path: Path, overrides: tuple[str, ...], words: tuple[str, ...]
) -> None:
    status = in_process("convert", f"sae={sae_dir}", f"out={tmp_path}/out", *overrides)
    assert_sentence(status, *words)
    assert not (tmp_path / "out").exists()
