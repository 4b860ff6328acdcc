"""Suite accuracy: what the fast path costs in test error."""

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.steps import ROOT, config
from experiments.benchmarks.suite import Row
from experiments.engine import rundir
from experiments.engine.files import write_json

EXPERIMENT, SEEDS = "mnist_rts", (0, 1, 2)
PATHS = {"fast path": (), "plain float32": ("trainer.precision=plain",)}
Results = Mapping[str, Sequence[dict[str, Any]]]  # path -> result.json of each seed


def accuracy(rounds: int) -> list[Row]:
    """Accuracy: test error of the ST-CNN affine on RTS, fast path against plain float32, schedule fast.

    `python train.py -m experiment=mnist_rts trainer=fast seed=0,1,2 trainer.precision=auto,plain threads=1`; the
    results: `results/guard/`. Spread: the larger standard deviation over seeds; the fast path's mean is to differ by
    less. Finished runs are taken from outputs/; the others are trained, a single thread each, one a core at a time.
    """
    by_path = {}
    for path, own in PATHS.items():
        overrides = [f"experiment={EXPERIMENT}", "trainer=fast", *own]
        sweep = [
            *overrides,
            f"seed={','.join(map(str, SEEDS))}",
            "threads=1",
            "launcher=local",
            "wandb.mode=disabled",
        ]
        subprocess.run([sys.executable, "train.py", "-m", *sweep], cwd=ROOT, check=True)
        folders = [ROOT / rundir.run_dir(config(*overrides, f"seed={seed}"), overrides) for seed in SEEDS]
        by_path[path] = [json.loads((folder / "result.json").read_text()) for folder in folders]
    _keep(by_path, ROOT / "results" / "guard")
    return error_rows(by_path)


def error_rows(results: Results) -> list[Row]:
    """A row for each path, the fast one first."""
    errors = {path: [r["metrics"]["test_error"] for r in held] for path, held in results.items()}
    fast, plain = errors.values()
    difference = statistics.fmean(fast) - statistics.fmean(plain)
    spread = max(statistics.stdev(fast), statistics.stdev(plain))
    rows: list[Row] = [
        {
            "path": path,
            "precision": held[0]["precision"],
            **{f"seed_{r['seed']}_error_percent": r["metrics"]["test_error"] for r in held},
            "mean_error_percent": statistics.fmean(errors[path]),
            "standard_deviation_points": statistics.stdev(errors[path]),
            "training_minutes": statistics.fmean(r["wall_seconds"] for r in held) / 60,
            "trained_on": held[0]["device"],
        }
        for path, held in results.items()
    ]
    rows[0] |= {"over_plain_points": difference, "spread_points": spread, "reached": abs(difference) < spread}
    return rows


def _keep(results: Results, folder: Path) -> None:
    """Copies of the results behind the rows, beside the page."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, held in results.items():
        for result in held:
            write_json(folder / f"{path.replace(' ', '_')}-seed_{result['seed']}.json", result)
