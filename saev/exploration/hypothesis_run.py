"""A hypothesis tested while somebody waits: the experiment of ``saev.intervene``, on a model of its own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from datamodules.progress import progress_bars, progress_watched
from saev.errors import UserError, first_line
from saev.files import write_atomically
from saev.intervention.experiment import run_setting
from saev.intervention.hypothesis import Hypothesis
from saev.intervention.judge.verdict import Verdict
from saev.intervention.report.files import write_registered
from saev.intervention.report.page import write_report
from saev.intervention.setting import Setting

MOST_TEXT = 1 << 20
"""Bytes of a hypothesis."""
MOST = {"untrained": 39, "shuffles": 20, "placebo": 0, "calibration": 0}
"""What a hypothesis may ask of a page that others use too."""
MOST_DRAWS = 200
MOST_CONCEPTS = 3
MOST_IMAGES = 1000
ELSEWHERE = "a larger one runs with python -m saev.intervene"
SHARES = {"discovery images": (0.0, 0.2), "test images": (0.2, 0.3), "interventions": (0.3, 0.95)}
"""Of the whole time, by the title of a progress bar."""

Progress = Callable[[float, str], None]


def read_text(text: str) -> Hypothesis:
    """A hypothesis from YAML, small enough to be tested at once.

    Raises:
        UserError: no YAML, values that are not allowed, or more than the page may be asked for.
    """
    if len(text.encode(errors="replace")) > MOST_TEXT:
        raise UserError(f"the hypothesis has more than {MOST_TEXT:,} bytes: {ELSEWHERE}")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise UserError(f"the hypothesis is not YAML ({first_line(error)}): correct it") from error
    if not isinstance(content, dict):
        raise UserError("the hypothesis holds no key: value pairs")
    file = Hypothesis.from_dict(content, "the hypothesis")
    for name, most in MOST.items():
        if getattr(file, name) > most:
            raise UserError(f"{name}={getattr(file, name)} is more than {most} here: {ELSEWHERE}")
    n_concepts = 1 if isinstance(file.concept, str) else len(file.concept)
    draws = max(file.draws or 0, file.n_directions, file.table.draws, file.tradeoff.draws)
    if file.concept == "all" or n_concepts > MOST_CONCEPTS or draws > MOST_DRAWS:
        raise UserError(
            f"the hypothesis asks for more than {MOST_CONCEPTS} concepts or {MOST_DRAWS} draws: {ELSEWHERE}"
        )
    n_settings = len(file.doses) + len(file.tradeoff.doses) + len(file.table.scales)
    if n_settings > 10 or len(file.table.n_latents) > 3:
        raise UserError(f"the hypothesis asks for more than 10 doses and scales: {ELSEWHERE}")
    images = file.images
    limits = [(images.discovery, images.n_discovery), (images.test, images.n_test)]
    for which, limit in limits:
        n = limit if isinstance(which, str) else min(len(which), limit or len(which))
        if n is not None and n > MOST_IMAGES:
            raise UserError(f"the hypothesis asks for more than {MOST_IMAGES} images: {ELSEWHERE}")
    return replace(file, images=replace(images, n_discovery=images.n_discovery or MOST_IMAGES,
                                        n_test=images.n_test or MOST_IMAGES))  # fmt: skip


def tested_hypothesis(
    setting: Setting, text: str, out_dir: Path, progress: Progress
) -> tuple[Path, list[Verdict]]:
    """Runs the experiment and writes its report; the page and the verdicts.

    The backbone of ``setting`` is hooked meanwhile: nobody else may use it.

    Raises:
        UserError: see :func:`read_text` and :func:`saev.intervention.experiment.run_setting`.
    """
    file = read_text(text)
    progress(0.0, "reading the hypothesis")
    own = replace(setting, file=file)
    report = out_dir / "report"
    report.mkdir(parents=True, exist_ok=True)
    write_atomically(report / "hypothesis.yaml", text)

    def watch(title: str, done: float) -> None:
        first, last = SHARES.get(title, (0.0, 0.0))
        if last:
            progress(first + (last - first) * min(done, 1.0), title)

    def register(content: dict[str, Any], sha256: str) -> object:
        return write_registered(content, report)

    with progress_bars(False), progress_watched(watch):
        result = run_setting(own, register)
    progress(0.95, "writing the report")
    write_report(result, report)
    progress(1.0, "done")
    return report / "index.html", result.verdicts
