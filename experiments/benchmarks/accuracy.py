"""Suite accuracy: what the fast path costs in test error, which must be nothing that seeds would not do."""

import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.benchmarks.ours import ROOT, config
from experiments.benchmarks.rows import Table, reached
from experiments.engine import rundir
from experiments.engine.files import write_json

EXPERIMENT, SEEDS = "mnist_rts", (0, 1, 2)
PATHS = {"fast path": (), "plain float32": ("trainer.precision=plain",)}
COMMAND = f"python train.py -m experiment={EXPERIMENT} trainer=fast seed=0,1,2 trainer.precision=auto,plain threads=1"


def accuracy(rounds: int) -> Table:
    """Trains what is not trained yet, one single-thread run a core; finished runs are taken from outputs/.

    rounds: not used; the seeds are the rounds.
    """
    runs = [(path, seed) for seed in SEEDS for path in PATHS]
    plans = [_plan(path, seed) for path, seed in runs]  # here, since Hydra composes in one thread only
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = dict(zip(runs, pool.map(_result, plans), strict=True))
    by_path = {path: [results[path, seed] for seed in SEEDS] for path in PATHS}
    keep(by_path, ROOT / "results" / "guard")
    return table(by_path)


def table(results: dict[str, list[dict[str, Any]]]) -> Table:
    """results: path -> result.json of each seed."""
    errors = {path: [r["metrics"]["test_error"] for r in held] for path, held in results.items()}
    fast, plain = errors.values()
    difference = statistics.mean(fast) - statistics.mean(plain)
    spread = max(statistics.stdev(fast), statistics.stdev(plain))
    out = Table(
        "accuracy: test error of the ST-CNN affine on RTS, fast path against plain float32, schedule fast",
        [
            f"`{COMMAND}`; the results: `results/guard/`.",
            f"Difference of the means: {difference:+.3f} points; seed spread (the larger sample standard deviation): "
            f"{spread:.3f}. Less than the spread: {reached(abs(difference) < spread)}.",
        ],
        repeats=f"{len(SEEDS)} seeds",
    )
    for path, held in results.items():
        values = errors[path]
        seconds = statistics.mean(result["wall_seconds"] for result in held)
        out.rows.append(
            {
                "path": f"{path} ({held[0]['precision']})",
                **{f"seed {seed}, %": f"{value:.2f}" for seed, value in zip(SEEDS, values, strict=True)},
                "mean ± std, %": f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}",
                "wall time, min": f"{seconds / 60:.1f}",
                "device": held[0]["device"],
            }
        )
    return out


def _plan(path: str, seed: int) -> tuple[list[str], Path]:
    """A run's overrides and its directory."""
    overrides = [f"experiment={EXPERIMENT}", "trainer=fast", f"seed={seed}", *PATHS[path]]
    return overrides, ROOT / rundir.run_dir(config(*overrides), overrides)


def _result(plan: tuple[list[str], Path]) -> dict[str, Any]:
    overrides, folder = plan
    command = [sys.executable, str(ROOT / "train.py"), *overrides, "threads=1", "wandb.mode=disabled"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(overrides)} failed: {done.stderr.strip().splitlines()[-1]}")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def keep(results: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """Copies of the results behind the table, beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, held in results.items():
        for result in held:
            write_json(folder / f"{path.replace(' ', '_')}-seed_{result['seed']}.json", result)
