"""Whole tables to W&B, beside the runs that stand in them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from experiments.engine.configuration import CONFIGS
from experiments.engine.provenance import git_revision
from experiments.engine.tracking import Tracker
from experiments.report.render import csv_text
from experiments.report.results import load_results
from experiments.report.tables import Sheet, Table, sheets

_NUMBERS = ("mean", "std", "n", "paper", "difference")


def records(sheet: Sheet) -> list[dict[str, str | float | None]]:
    """The lines of a sheet's CSV file, with numbers as numbers and None where a cell is empty."""
    return [
        {key: (float(text) if text else None) if key in _NUMBERS else text for key, text in line.items()}
        for line in csv.DictReader(io.StringIO(csv_text(sheet)))
    ]


def mirror(
    dirs: Iterable[str | Path],
    tables: Sequence[Table],
    *,
    mode: str,
    root: Path = Path("outputs"),
    include_smoke: bool = False,
) -> str | None:
    """Every sheet as a `wandb.Table`, in one W&B run of job type `report`.

    mode: offline or online.   root: W&B writes below root/wandb.   returns: the command that uploads it, offline.
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
        tracker.table(f"tables/{sheet.stem}", records(sheet))
    tracker.finish()
    return tracker.sync_command
