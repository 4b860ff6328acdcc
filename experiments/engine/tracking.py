"""Logging to Weights & Biases. Only this file imports wandb, and a failure of W&B never ends a training."""

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
AGAINST_PAPER = "paper_against_ours"  # key of a table; W&B joins the tables of several runs by it
LONGEST_NAME, LONGEST_TAG = 128, 64  # characters; W&B refuses a run with longer ones


def under_agent() -> bool:
    """Returns whether `wandb agent` started this process, for a run of a W&B sweep."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


class Tracker:
    """Copies the numbers and files of a run to W&B; result.json stays the source of truth.

    After the first failure it warns once and does nothing more. A resumed run continues the same W&B run, whose id is
    kept in the run directory. In a W&B sweep it logs to the run of the agent, online.

    As a context manager it ends the W&B run, as failed where an exception was raised.

    Args:
        folder: the run directory; None for a new W&B run every time.
        root: W&B writes below root/wandb.
        mode: one of `MODES`.
        project, entity, job_type, config: as of `wandb.init`.
        artifacts: whether the caller should record files too.
        group: the same for all seeds.
        name: of this run.
        tags: empty and repeated ones are left out.
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
        agent = under_agent()  # which has a project and an entity of its own
        settings = {
            "mode": "online" if agent else mode,
            "project": None if agent else project,
            "entity": None if agent else entity,
            "group": shortened(group, LONGEST_NAME),
            "name": name if len(name) <= LONGEST_NAME else _keep_end(name),
            "job_type": job_type,
            "tags": list(dict.fromkeys(tag[:LONGEST_TAG] for tag in tags if tag)),
            "config": config,
        }
        self._guard(lambda: self._start(folder, settings))

    def _start(self, folder: Path | None, settings: dict[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb  # takes a second, which `--help` and wandb.mode=disabled do not need

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
                x_disable_meta=True,  # command line and git remote: both may hold a password
                disable_git=True,
                reinit="create_new",  # this process may have another W&B run open
            ),
        )
        if settings["mode"] == "offline":
            self._offline_id = run_id

    @property
    def sync_command(self) -> str | None:
        """The command that uploads an offline run: one folder for each time it was resumed. None for other runs."""
        if self._offline_id is None:
            return None
        parts = sorted((self._root / "wandb").glob(f"offline-run-*-{self._offline_id}"))
        return shlex.join(["wandb", "sync", *map(str, parts)])

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Logs the numbers of a step."""
        self.attempt(lambda: self._run.log(metrics, step=step))

    def summary(self, values: dict[str, Any]) -> None:
        """Sets values of the run's summary."""
        self.attempt(lambda: self._run.summary.update(values))

    def figures(self, step: int, paths: dict[str, Path]) -> None:
        """Logs pictures as `figures/<name>`."""

        def send() -> None:
            import wandb

            self._run.log(
                {f"figures/{name}": wandb.Image(str(path)) for name, path in paths.items()}, step=step
            )

        self.attempt(send)

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], *, step: int | None = None) -> None:
        """Logs a table.

        Args:
            key: its name.
            rows: column -> text, number or None; at least one row, all with the same columns.
            step: of the log; None for the next one.
        """

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

        Offline nothing is copied: W&B records the paths, and `wandb sync` uploads the files from there.
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

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish(exit_code=0 if kind is None else 1)

    def finish(self, exit_code: int = 0) -> None:
        """Ends the W&B run."""
        self.attempt(lambda: self._run.finish(exit_code=exit_code))
        self._run = None

    def attempt(self, action: Callable[[], Any]) -> None:
        """Does something for W&B alone: nothing without a W&B run, and an exception becomes a warning."""
        if self._run is not None:
            self._guard(action)

    def _guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            log.warning("W&B stopped (%s: %s); training goes on without it.", type(error).__name__, error)
            self._run = None


def _id(folder: Path | None) -> str:
    """The W&B id of a run directory, made on first use."""
    fresh = secrets.token_hex(4)
    if folder is None:
        return fresh
    file = folder / "wandb_id"
    if not file.exists():
        file.write_text(fresh)
    return file.read_text()


def _keep_end(name: str) -> str:
    """The name shortened to `LONGEST_NAME` characters before its last part, which is the seed."""
    cell, _, seed = name.rpartition("/")
    return f"{shortened(cell, LONGEST_NAME - len(seed) - 1)}/{seed}"


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[None]:
    """Makes W&B keep its copies below root/wandb, where `wandb sync` finds them, and not in the home directory."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or str((root / "wandb").resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]
