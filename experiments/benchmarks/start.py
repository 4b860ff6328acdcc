"""Suite start: imports, help, memory."""

import subprocess
import sys
import time
from collections.abc import Sequence
from tempfile import TemporaryDirectory

from experiments.benchmarks.ours import ROOT, our_data
from experiments.benchmarks.rows import Table, fact
from experiments.benchmarks.timing import Timing, ratio


def start(rounds: int) -> Table:
    table = Table(
        "start: imports, help and memory",
        ["Whole processes, in turn. Memory: peak resident size of a run of 60 steps and its final test."],
    )
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "import stn": [sys.executable, "-c", "import stn"],
        "train.py --help": [sys.executable, str(ROOT / "train.py"), "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for i in range(max(rounds // 2, 3) + 1):
        for name, command in commands.items():
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
            if i:
                seconds[name].append(time.perf_counter() - begun)
    times = {name: Timing(name, values) for name, values in seconds.items()}
    stn = ratio(times["import stn"], times["import torch"])
    help_seconds = times["train.py --help"].median
    table.rows.append(fact("import stn / import torch", str(stn), "at most 2", stn.median <= 2))
    table.rows.append(fact("import stn", f"{times['import stn'].median:.2f} s", "", None))
    table.rows.append(fact("train.py --help", f"{help_seconds:.2f} s", "at most 5 s", help_seconds <= 5))
    for model, overrides in (("st_cnn", []), ("cnn", ["model=cnn"])):
        megabytes = peak_memory(["experiment=mnist_rts", *overrides])
        label = f"peak memory, experiment=mnist_rts model={model}"
        table.rows.append(fact(label, f"{megabytes:.0f} MB", "at most 2000 MB", megabytes <= 2000))
    return table


def peak_memory(overrides: Sequence[str], steps: int = 60) -> float:
    """Megabytes that a short run takes at most, in float32 as the paper's schedule has it."""
    code = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    dataset = [] if our_data("mnist_rts").images.shape[0] == 60000 else ["dataset=digits"]
    with TemporaryDirectory() as folder:
        out = subprocess.run(
            [sys.executable, "-c", code, str(ROOT / "train.py"), *overrides, *dataset, f"output_dir={folder}",
             f"trainer.iterations={steps}", "trainer.log_every=20", "trainer.checkpoint_every=20",
             "trainer.val_every=20", "wandb.mode=disabled", "figures=false"],
            check=True, capture_output=True, text=True, cwd=ROOT,
        ).stdout  # fmt: skip
    kilobytes = int(out.split("peak")[-1])
    return kilobytes / (1024 if sys.platform == "linux" else 1024**2)
