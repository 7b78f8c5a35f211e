"""``hydra/launcher=shared``: the members of a sweep on one stream of activations.

Members that differ in nothing but what is trained on it (model, seed, length) share the stream: recorded,
verified, read and shuffled once. Each has its own run, folder, checkpoints and callbacks.
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import (
    JobReturn,
    JobStatus,
    configure_log,
    filter_overrides,
    run_job,
    setup_globals,
)
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from saev import stopping
from saev.cli.lockstep import Lockstep
from saev.errors import UserError

log = logging.getLogger(__name__)

Task = Callable[[DictConfig], Any]

ALIKE = (
    "backbone", "images", "tokens", "record", "data", "task", "paths.outputs", "trainer.accelerator",
    "trainer.devices",
)  # fmt: skip
"""Keys in which members that share a stream agree; its order is drawn with the seed of the first."""


class SharedLauncher(Launcher):
    """Runs the members of a sweep side by side in this process, as far as they share a stream.

    Args:
        resume: whether members that have ended before, in the same ``hydra.sweep.dir``, are left as they
            are and those that were interrupted go on from their last checkpoints.
    """

    def __init__(self, resume: bool = False) -> None:
        self.resume = resume
        self.config: DictConfig | None = None
        self.task_function: Task | None = None
        self.hydra_context: HydraContext | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: Task, config: DictConfig
    ) -> None:
        self.config, self.task_function = config, task_function
        self.hydra_context = hydra_context

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """What every member returned, in order.

        Raises:
            UserError: another command than ``saev.train``.
        """
        config, context = self.config, self.hydra_context
        assert config is not None and context is not None and self.task_function is not None
        verb = str(config.hydra.job.name)
        if not verb.endswith("train"):
            raise UserError(
                f"hydra/launcher=shared is for saev.train, which reads a stream; leave it out for {verb}"
            )
        setup_globals()
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)
        Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        members = [
            self._composed(list(overrides), initial_job_idx + number)
            for number, overrides in enumerate(job_overrides)
        ]
        returned: dict[int, JobReturn] = {}
        for number, member in enumerate(members):
            if (found := self._finished(member)) is not None:
                returned[number] = found
        try:
            for group in self._groups({n: m for n, m in enumerate(members) if n not in returned}):
                log.info("%d members on one stream:", len(group))
                for member in group.values():
                    overrides = filter_overrides(list(member.hydra.overrides.task))
                    log.info("\t#%s : %s", member.hydra.job.num, " ".join(overrides))
                works = [self._work(member) for member in group.values()]
                returned |= zip(group, Lockstep().run(works), strict=True)
                configure_log(config.hydra.hydra_logging, config.hydra.verbose)
        except BaseException:
            if stopping.is_asked():
                stopping.advise(
                    f"go on with the same command, hydra.sweep.dir={config.hydra.sweep.dir} and "
                    "hydra.launcher.resume=true"
                )
            raise
        return [returned[number] for number in range(len(members))]

    def _composed(self, overrides: list[str], number: int) -> DictConfig:
        assert self.hydra_context is not None and self.config is not None
        member = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(member):
            member.hydra.job.id = str(number)
            member.hydra.job.num = number
            last = _folder(member) / "checkpoints" / "last.ckpt"
            if self.resume and last.is_file():
                member.ckpt_path = str(last)
        return member

    def _finished(self, member: DictConfig) -> JobReturn | None:
        """What a member gave that has ended before; None where it has not, or resuming is not asked for."""
        path = _folder(member) / "metrics.json"
        if not (self.resume and path.is_file()):
            return None
        assert self.hydra_context is not None
        value = json.loads(path.read_text()).get(member.objective)
        overrides = list(member.hydra.overrides.task)
        found = JobReturn(
            overrides=overrides, cfg=member, hydra_cfg=member, working_dir=str(Path.cwd())
        )
        found.status, found.return_value = JobStatus.COMPLETED, value
        self.hydra_context.callbacks.on_job_end(config=member, job_return=found)
        log.info("\t#%s has ended before", member.hydra.job.num)
        return found

    def _groups(self, members: dict[int, DictConfig]) -> list[dict[int, DictConfig]]:
        """Members that can share a stream, in the order of the sweep."""
        groups: dict[str, dict[int, DictConfig]] = {}
        for number, member in members.items():
            groups.setdefault(_stream_of(member), {})[number] = member
        return list(groups.values())

    def _work(self, member: DictConfig) -> Any:
        task, context = self.task_function, self.hydra_context
        assert task is not None and context is not None

        def work() -> JobReturn:
            return run_job(task, member, "hydra.sweep.dir", "hydra.sweep.subdir", context)

        return work


def _folder(member: DictConfig) -> Path:
    return Path(str(member.hydra.sweep.dir)) / str(member.hydra.sweep.subdir)


def _stream_of(member: DictConfig) -> str:
    """Text that is equal for members which read the same tokens."""
    found: Any = {}
    for key in ALIKE:
        value = OmegaConf.select(member, key)
        # interpolations are resolved where they stand
        found[key] = (
            OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        )
    if isinstance(found["data"], dict):
        found["data"].pop("seed", None)
    return json.dumps(found, sort_keys=True, default=str)


def register_launcher() -> None:
    """Makes the launcher known to Hydra, which takes plugins of the package ``hydra_plugins`` alone and
    looks for them there by name."""
    import hydra_plugins  # joblib's launcher lies in it

    module = ModuleType(f"{hydra_plugins.__name__}.saev")
    SharedLauncher.__module__ = module.__name__
    setattr(module, SharedLauncher.__name__, SharedLauncher)
    setattr(hydra_plugins, "saev", module)  # noqa: B010
    sys.modules[module.__name__] = module
    Plugins.instance().register(SharedLauncher)
