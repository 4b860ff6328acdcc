"""Weights & Biases, and nothing but: the one file that imports wandb. Training never dies because tracking did."""

import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

MODES = ("offline", "online", "disabled")


class Tracker:
    """Mirrors a run to W&B; result.json stays the source of truth.

    After the first failure it says so once and falls silent. A resumed run continues the same W&B run: its id is
    kept in the run directory.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: str,
        project: str,
        entity: str | None,
        group: str,
        name: str,
        tags: list[str],
        config: dict[str, Any],
    ) -> None:
        self._run: Any = None
        self.offline_dir: Path | None = None
        if mode != "disabled":
            self._guard(lambda: self._start(folder, mode, project, entity, group, name, tags, config))

    def _start(
        self,
        folder: Path,
        mode: str,
        project: str,
        entity: str | None,
        group: str,
        name: str,
        tags: list[str],
        config: dict[str, Any],
    ) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb  # here, since it costs a second that `--help` and wandb.mode=disabled need not pay

        id_file = folder / "wandb_id"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4))
        self._run = wandb.init(
            project=project,
            entity=entity,
            group=group,
            name=name,
            job_type="train",
            tags=tags,
            config=config,
            id=id_file.read_text(),
            resume="allow" if mode == "online" else None,
            dir=str(folder),
            mode=mode,
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )
        if mode == "offline":
            self.offline_dir = Path(self._run.dir).parent

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self._try(lambda: self._run.log(numbers, step=step))

    def summary(self, numbers: dict[str, Any]) -> None:
        self._try(lambda: self._run.summary.update(numbers))

    def figures(self, step: int, paths: dict[str, Path]) -> None:
        def send() -> None:
            import wandb

            self._run.log(
                {f"figures/{name}": wandb.Image(str(path)) for name, path in paths.items()}, step=step
            )

        self._try(send)

    def finish(self, exit_code: int = 0) -> None:
        self._try(lambda: self._run.finish(exit_code=exit_code))
        self._run = None

    def _try(self, action: Callable[[], Any]) -> None:
        if self._run is not None:
            self._guard(action)

    def _guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            log.warning("W&B stopped (%s: %s); training goes on without it.", type(error).__name__, error)
            self._run = None
