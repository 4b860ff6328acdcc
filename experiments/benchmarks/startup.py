"""Suite start: imports, help, memory."""

import subprocess
import sys
import time
from collections.abc import Sequence
from tempfile import TemporaryDirectory

from experiments.benchmarks.baselines import has_mnist
from experiments.benchmarks.steps import ROOT
from experiments.benchmarks.suite import Row
from experiments.benchmarks.timing import Timing, ratio

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
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for i in range(max(rounds // 2, 3) + 1):
        for name, command in commands.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
            if i:
                seconds[name].append(time.perf_counter() - begun)
    torch, stn, help_ = (Timing(name, values) for name, values in seconds.items())
    imports = ratio(stn, torch)
    rows: list[Row] = [
        {"what": "import stn / import torch", "ratio": imports, "seconds": None, "megabytes": None, "at_most": 2.0,
         "reached": imports["median"] <= 2},
        {"what": "import stn", "seconds": stn.median},
        {"what": "train.py --help", "seconds": help_.median, "at_most": 5.0, "reached": help_.median <= 5},
    ]  # fmt: skip
    for model in ("st_cnn", "cnn"):
        overrides = ["experiment=mnist_rts", f"model={model}"]
        peak = peak_megabytes(overrides)
        what = f"peak memory, {' '.join(overrides)}"
        rows.append({"what": what, "megabytes": peak, "at_most": 2000.0, "reached": peak <= 2000})
    return rows


def peak_megabytes(overrides: Sequence[str], steps: int = 60) -> float:
    """The memory that a short run takes at most, in float32 as the paper's schedule has it."""
    dataset = [] if has_mnist() else ["dataset=digits"]
    with TemporaryDirectory() as folder:
        out = subprocess.run(
            [sys.executable, "-c", MEMORY, str(ROOT / "train.py"), *overrides, *dataset, f"output_dir={folder}",
             f"trainer.iterations={steps}", "trainer.log_every=20", "trainer.checkpoint_every=20",
             "trainer.val_every=20", "wandb.mode=disabled", "figures=false"],
            check=True, capture_output=True, text=True, cwd=ROOT,
        ).stdout  # fmt: skip
    return int(out.split("peak")[-1]) / (1024 if sys.platform == "linux" else 1024**2)
