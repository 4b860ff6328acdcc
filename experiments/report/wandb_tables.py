"""The report's tables in W&B, beside the runs in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from experiments.engine.configuration import CONFIGS
from experiments.engine.run import git_revision
from experiments.engine.tracking import Tracker
from experiments.report.records import cell_records
from experiments.report.results import load_results
from experiments.report.tables import Table, sheets


def log_tables(
    dirs: Iterable[str | Path],
    tables: Sequence[Table],
    *,
    mode: str,
    root: Path = Path("outputs"),
    include_smoke: bool = False,
) -> str | None:
    """Logs every sheet as a `wandb.Table`, in one W&B run of job type `report`.

    Args:
        dirs: folders with results, or result files.
        tables: in the order of print.
        mode: `offline` or `online`.
        root: W&B writes below root/wandb.
        include_smoke: also show runs of the schedule `smoke`.

    Returns:
        The command that uploads an offline run; None for an online one.
    """
    root.mkdir(parents=True, exist_ok=True)
    where = OmegaConf.load(CONFIGS / "wandb" / "default.yaml")
    revision = git_revision()
    commit = (revision["git_revision"] or "")[:7]
    tracker = Tracker(
        None,
        root=root,
        mode=mode,
        project=where.project,
        entity=where.entity,
        artifacts=False,
        group="report",
        name=f"report-{commit}" if commit else "report",
        job_type="report",
        tags=[
            "report",
            *([f"git-{commit}"] if commit else []),
            *(["dirty"] if revision["git_dirty"] else []),
        ],
        config=revision,
    )
    for sheet in sheets(tables, load_results(dirs), include_smoke=include_smoke):
        tracker.table(f"tables/{sheet.stem}", cell_records(sheet))
    tracker.finish()
    return tracker.sync_command
