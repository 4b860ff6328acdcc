"""Weights & Biases, and nothing but: the one file that imports wandb. Training never dies because tracking did."""

import contextlib
import logging
import os
import re
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.engine.rundir import shortened

log = logging.getLogger(__name__)

MODES = ("offline", "online", "disabled")
AGAINST_PAPER = "paper_against_ours"  # the table's key, the same in every run: W&B puts their rows together
LONGEST_NAME, LONGEST_TAG = 128, 64  # characters; W&B refuses to take in a run with longer ones


def under_agent() -> bool:
    """Whether `wandb agent` started this process, for a run of a W&B sweep."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


class Tracker:
    """Mirrors a run to W&B; result.json stays the source of truth.

    After the first failure it says so once and falls silent. A resumed run continues the same W&B run: its id is
    kept in the run directory. The run of a W&B sweep is the agent's, by its id, and online.

    folder: the run directory; None: a W&B run of its own every time.   root: W&B writes below root/wandb.
    artifacts: whether files are wanted too.   group: what is equal for all seeds.   name: of this run.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        root: Path,
        mode: str,
        project: str,
        entity: str | None,
        artifacts: bool,
        group: str,
        name: str,
        job_type: str,
        tags: Sequence[str],
        config: dict[str, Any],
    ) -> None:
        self._run: Any = None
        self._root = root
        self._offline_id: str | None = None
        self._name = name
        self.artifacts = artifacts
        if mode == "disabled":
            return
        if under_agent():
            mode, project, entity = (
                "online",
                None,
                None,
            )  # the agent's, which W&B would insist on with a warning
        settings = {
            "mode": mode,
            "project": project,
            "entity": entity,
            "group": shortened(group, LONGEST_NAME),
            "name": name if len(name) <= LONGEST_NAME else _keep_end(name),
            "job_type": job_type,
            "tags": list(dict.fromkeys(tag[:LONGEST_TAG] for tag in tags if tag)),
            "config": config,
        }
        self._guard(lambda: self._start(folder, settings))

    def _start(self, folder: Path | None, settings: dict[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb  # here, since it costs a second that `--help` and wandb.mode=disabled need not pay

        run_id = None if under_agent() else _id(folder)
        self._run = wandb.init(
            **settings,
            id=run_id,
            resume="allow"
            if settings["mode"] == "online"
            else None,  # offline, `wandb sync` appends by the id
            dir=str(self._root),
            settings=wandb.Settings(
                console="off",
                silent=True,
                x_disable_stats=True,
                reinit="create_new",  # never another run of this process, one that failed or one that this one needs
            ),
        )
        if settings["mode"] == "offline":
            self._offline_id = run_id

    @property
    def sync_command(self) -> str | None:
        """The command that uploads an offline run, every part of it: one folder each time it was resumed."""
        if self._offline_id is None:
            return None
        parts = sorted((self._root / "wandb").glob(f"offline-run-*-{self._offline_id}"))
        return shlex.join(["wandb", "sync", *map(str, parts)])

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self.attempt(lambda: self._run.log(numbers, step=step))

    def summary(self, numbers: dict[str, Any]) -> None:
        self.attempt(lambda: self._run.summary.update(numbers))

    def figures(self, step: int, paths: dict[str, Path]) -> None:
        def send() -> None:
            import wandb

            self._run.log(
                {f"figures/{name}": wandb.Image(str(path)) for name, path in paths.items()}, step=step
            )

        self.attempt(send)

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], *, step: int | None = None) -> None:
        """rows: the columns' names -> a line's texts, numbers and None; all with the same names, at least one."""

        def send() -> None:
            import wandb

            table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            with _staging(self._root):
                self._run.log({key: table}, step=step)

        self.attempt(send)

    def artifact(
        self, kind: str, files: Sequence[Path], *, alias: str | None = None, metadata: dict[str, Any]
    ) -> None:
        """Records files as a version of the artifact `<name of the run>-<kind>`, of type `kind`.

        Offline, nothing is copied: what is recorded is where they lie, and `wandb sync` uploads them from there.
        """

        def send() -> None:
            import wandb

            name = re.sub(r"[^\w.-]+", "-", self._name)
            artifact = wandb.Artifact(
                f"{shortened(name, LONGEST_NAME - len(kind) - 1)}-{kind}", type=kind, metadata=metadata
            )
            for file in files:
                artifact.add_file(str(file.resolve()), name=file.name, policy="immutable", skip_cache=True)
            self._run.log_artifact(artifact, aliases=[alias] if alias else None)

        self.attempt(send)

    def finish(self, exit_code: int = 0) -> None:
        self.attempt(lambda: self._run.finish(exit_code=exit_code))
        self._run = None

    def attempt(self, action: Callable[[], Any]) -> None:
        """Whatever is done for W&B's sake alone: not at all without it, and never to the harm of the training."""
        if self._run is not None:
            self._guard(action)

    def _guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            log.warning("W&B stopped (%s: %s); training goes on without it.", type(error).__name__, error)
            self._run = None


def _id(folder: Path | None) -> str:
    """Kept in the run directory, so that a resumed run is the same one."""
    fresh = secrets.token_hex(4)
    if folder is None:
        return fresh
    file = folder / "wandb_id"
    if not file.exists():
        file.write_text(fresh)
    return file.read_text()


def _keep_end(name: str) -> str:
    """A name cut short in its cell, not in its seed."""
    cell, _, seed = name.rpartition("/")
    return f"{shortened(cell, LONGEST_NAME - len(seed) - 1)}/{seed}"


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[None]:
    """Has W&B keep what it must copy beside the run, where `wandb sync` will look for it, and not in the home."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or str((root / "wandb").resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]
