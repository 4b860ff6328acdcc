"""Suites start and accuracy: what whole processes take, and what runs of train.py end with."""

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from experiments.benchmarks.baselines import has_mnist
from experiments.benchmarks.steps import config
from experiments.benchmarks.timing import Row, Work, goal, in_turn, ratio
from experiments.engine import rundir
from experiments.engine.files import ROOT, write_json

MEMORY = (  # runs train.py, then prints the largest resident size
    "import resource, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
    "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)


def start(rounds: int) -> list[Row]:
    """Start: imports, help and memory.

    Whole processes, in turn. Memory: peak resident size of a run of 60 steps and its final test.
    """
    commands = {
        "import torch": ["-c", "import torch"],
        "import stn": ["-c", "import stn"],
        "train.py --help": [str(ROOT / "train.py"), "--help"],
    }
    sides = {name: partial(process, *command) for name, command in commands.items()}
    torch, stn, help_ = in_turn(sides, rounds=max(rounds // 2, 3))
    imports = ratio(stn, torch)
    rows: list[Row] = [
        {"what": "import stn / import torch", "ratio": imports, "seconds": None, "megabytes": None}
        | goal(imports, at_most=2.0),
        {"what": "import stn", "seconds": stn.median},
        {"what": "train.py --help", "seconds": help_.median} | goal(help_.median, at_most=5.0),
    ]
    for model in ("st_cnn", "cnn"):
        overrides = ["experiment=mnist_rts", f"model={model}"]
        peak = peak_megabytes(overrides)
        what = f"peak memory, {' '.join(overrides)}"
        rows.append({"what": what, "megabytes": peak} | goal(peak, at_most=2000.0))
    return rows


def process(*arguments: str) -> Work:
    """Python with these arguments, from its start to its end."""
    command = [sys.executable, *arguments]
    return Work(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT))


def peak_megabytes(overrides: Sequence[str], steps: int = 60) -> float:
    """The memory that a short run takes at most, in float32 as the paper's schedule has it."""
    every = [f"trainer.{what}_every=20" for what in ("log", "checkpoint", "val")]
    dataset = [] if has_mnist() else ["dataset=digits"]
    with TemporaryDirectory() as folder:
        own = [*dataset, f"output_dir={folder}", f"trainer.iterations={steps}", "figures=false"]
        command = [sys.executable, "-c", MEMORY, str(ROOT / "train.py"), *overrides, *every, *own]
        run = subprocess.run(
            [*command, "wandb.mode=disabled"], check=True, capture_output=True, text=True, cwd=ROOT
        )
    return int(run.stdout.split("peak")[-1]) / (1024 if sys.platform == "linux" else 1024**2)


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
        sweep = [*overrides, f"seed={','.join(map(str, SEEDS))}", "threads=1", "launcher=local"]
        command = [sys.executable, "train.py", "-m", *sweep, "wandb.mode=disabled"]
        subprocess.run(command, cwd=ROOT, check=True)
        folders = [ROOT / rundir.run_dir(config(*overrides, f"seed={seed}"), overrides) for seed in SEEDS]
        by_path[path] = [json.loads((folder / "result.json").read_text()) for folder in folders]
    kept = ROOT / "results" / "guard"  # copies of the results behind the rows
    shutil.rmtree(kept, ignore_errors=True)
    for path, held in by_path.items():
        for result in held:
            write_json(kept / f"{path.replace(' ', '_')}-seed_{result['seed']}.json", result)
    return error_rows(by_path)


def error_rows(results: Results) -> list[Row]:
    """A row for each path, the fast one first."""
    rows: list[Row] = []
    for path, held in results.items():
        by_seed = {f"seed_{r['seed']}_error_percent": r["metrics"]["test_error"] for r in held}
        mean, deviation = statistics.fmean(by_seed.values()), statistics.stdev(by_seed.values())
        row = {"path": path, "precision": held[0]["precision"], **by_seed, "mean_error_percent": mean}
        row |= {"standard_deviation_points": deviation}
        row |= {"training_minutes": statistics.fmean(r["wall_seconds"] for r in held) / 60}
        rows.append(row | {"trained_on": held[0]["device"]})
    fast, plain = rows
    difference = fast["mean_error_percent"] - plain["mean_error_percent"]
    spread = max(row["standard_deviation_points"] for row in rows)
    fast |= {"over_plain_points": difference, "spread_points": spread, "reached": abs(difference) < spread}
    return rows
