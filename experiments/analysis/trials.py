"""Trials: choices made on held-out training digits, as tables that a command makes again.

A trial is a configuration and a seed. It trains on the training digits without 10,000, and is judged on these, each
distorted `DRAWS` times. The test set is never read. A trial's numbers are one JSON file; a table is drawn from the
files of its trials.
"""

import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments.analysis.trial_tables import TABLES, Trial
from experiments.engine.build import build
from experiments.engine.compute import choose
from experiments.engine.configuration import configuration
from experiments.engine.files import ROOT, write_atomically, write_json
from experiments.engine.identity import identity
from experiments.engine.identity import stored as stored_configuration
from experiments.engine.interfaces import Data, Task
from experiments.engine.loop import Cadence, Observer, Training, train
from experiments.engine.optim import make_optimizer
from experiments.engine.provenance import git_revision
from experiments.engine.run import assemble
from experiments.report import markdown_table

log = logging.getLogger(__name__)

FOLDER = ROOT / "results" / "trials"
HELD_OUT = 10_000  # training digits
DRAWS = 5  # distortions of each at the end; the curve has one
FRESH = 10_000  # training digits distorted afresh, for the error on digits that were seen


def path_of(table: str, trial: Trial, seed: int) -> Path:
    return FOLDER / table / f"{trial.name}_seed_{seed}.json"


def stored(table: str, trial: Trial, seed: int) -> dict[str, Any] | None:
    """The numbers of a trial that ran with this very configuration, or None."""
    path = path_of(table, trial, seed)
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found if _is_of(found, trial) else None


def run(table: str, trial: Trial, seed: int) -> dict[str, Any]:
    """Trains and judges one trial, and writes its file."""
    result = measure(trial.overrides.split(), seed)
    result = {"table": table, "name": trial.name, **result}
    path = path_of(table, trial, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    log.info("%s, seed %d: %.3f %% in %.0f s", trial.name, seed, result["error"], result["cpu_seconds"])
    return result


class _Judge(Observer):
    """Measures the error on one distortion of the held-out digits during the training.

    Attributes:
        curve: (step, error in percent).
        seconds: CPU time of the measurements.
    """

    def __init__(self, training: Training, data: Data, size: int) -> None:
        self.training, self.held_out, self.size = training, data.val, size
        self.curve: list[tuple[int, float]] = []
        self.seconds = 0.0

    def validate(self, step: int) -> dict[str, float]:
        start = time.process_time()
        assert self.held_out is not None
        batches = self.held_out.batches(self.size)
        error = self.training.task.evaluate(self.training.model, batches)[0]["error"]
        self.curve.append((step, round(error, 4)))
        log.info("step %d: %.2f %%", step, error)
        self.seconds += time.process_time() - start
        return {"val/error": error}


def measure(overrides: list[str], seed: int) -> dict[str, Any]:
    """Trains a configuration on one thread and judges it on held-out digits.

    Args:
        overrides: of train.py.
        seed: of the run.

    Returns:
        `error`, on all draws, and `curve`, on one, of the held-out digits; `fresh_error`, on training digits distorted
        afresh; all in percent. `off_diagonal`: the standard deviation over images of theta's two off-diagonal elements,
        their mean. `averaged_error`: as `error`, of the averaged weights, where `trainer.average` asks for them.
        `cpu_seconds`: of the training alone.
    """
    revision = git_revision()  # of the code that runs, before it may change
    cfg = _configuration(overrides, seed)
    compute = choose(cfg.device, cfg.trainer.precision, cfg.threads)
    data, model = assemble(cfg, compute.device)
    task: Task = build(cfg.task)
    settings: Any = OmegaConf.to_container(cfg.optimizer, resolve=True)
    optimizer = make_optimizer(model, settings, plain=compute.plain)
    schedule = build(cfg.trainer.schedule)(optimizer)
    stream = data.train_stream(cfg.trainer.batch_size)
    training = Training(model, task, optimizer, schedule, stream, compute)
    averaged = _averaged(cfg, model, optimizer)
    iterations, log_every = cfg.trainer.iterations, cfg.trainer.log_every
    tenth = max(iterations // 10 // log_every, 1) * log_every
    judge = _Judge(training, data, cfg.trainer.eval_batch_size)
    started = time.process_time()
    train(training, Cadence(iterations, log_every, checkpoint_every=iterations, val_every=tenth), judge)
    cpu_seconds = time.process_time() - started - judge.seconds
    sets = [build(cfg.dataset, seed=seed, test_seed=draw).val for draw in range(DRAWS)]
    size = cfg.trainer.eval_batch_size
    metrics, predictions = task.evaluate(model, (batch for held in sets for batch in held.batches(size)))
    extra: dict[str, float] = {}
    if averaged is not None:
        held_out = (batch for held in sets for batch in held.batches(size))
        extra["averaged_error"] = task.evaluate(averaged, held_out)[0]["error"]
    stream = build(cfg.dataset, seed=1_000_000 + seed).train_stream(size)
    fresh = [stream.next_batch() for _ in range(FRESH // size)]
    return {
        "overrides": overrides,
        "seed": seed,
        "iterations": iterations,
        "batch_size": cfg.trainer.batch_size,
        "error": metrics["error"],
        **extra,
        "loss": metrics["loss"],
        "images": len(predictions),
        "fresh_error": task.evaluate(model, fresh)[0]["error"],
        "off_diagonal": _off_diagonal(model, fresh),
        "cpu_seconds": round(cpu_seconds, 1),
        "machine": compute.name,
        "precision": compute.precision,
        "width": getattr(model, "width", None),
        "parameters": sum(p.numel() for p in model.parameters()),
        **revision,
        "curve": judge.curve,
        "config": stored_configuration(cfg),
    }


def _averaged(cfg: DictConfig, model: nn.Module, optimizer: torch.optim.Optimizer) -> AveragedModel | None:
    """An exponential average of the weights over the steps, judged beside the last iterate.

    trainer.average: its decay per step; left out: there is none.
    """
    decay = cfg.trainer.get("average")
    if not decay:
        return None
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    optimizer.register_step_post_hook(lambda *_: averaged.update_parameters(model))
    return averaged


@torch.inference_mode()
def _off_diagonal(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    thetas = [aux["theta"] for images, _ in batches if "theta" in (aux := model(images)[1])]
    if not thetas or thetas[0].shape[2] != 6:
        return None
    return float(torch.cat(thetas)[..., [1, 3]].std(dim=0, correction=0).mean())


def render(table: str) -> Path:
    """Writes results/trials/<table>.md from the files of its trials."""
    trials = TABLES[table]
    rows = [(trial, found) for trial in trials.trials if (found := _found(table, trial))]
    lines = [
        f"# {trials.title}",
        "",
        trials.about,
        "",
        markdown_table(
            ["trial", "steps", "n", "held-out", "averaged", "seen", "turn", "minutes"],
            [_cells(trial, found) for trial, found in rows],
            "lrrrrrrr",
        ).rstrip("\n"),
        "",
        f"- **Held-out**: error in percent on {HELD_OUT:,} held-out training digits, {DRAWS} distortions of each; mean "
        "± sample standard deviation over n seeds.",
        "- **Averaged**: the same, of an exponential average of the weights.",
        f"- **Seen**: error on {FRESH:,} training digits distorted afresh.",
        "- **Turn**: standard deviation of theta's off-diagonal elements over these.",
        f"- **Minutes**: CPU time of the training alone; {', '.join(_machines(rows))}.",
        "- The test set was never read.",
        "",
        markdown_table(
            ["trial", "configuration"], [[trial.name, f"`{trial.overrides}`"] for trial, _ in rows], "ll"
        ).rstrip("\n"),
        "",
        f"Made by `python scripts/trials.py {table}`.",
    ]
    path = FOLDER / f"{table}.md"
    text = "\n".join(lines) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_text(text))
    return path


def _found(table: str, trial: Trial) -> list[dict[str, Any]]:
    """What was measured with the trial's very configuration, seed by seed."""
    paths = sorted((FOLDER / table).glob(f"{trial.name}_seed_*.json"))
    return [found for path in paths if _is_of(found := json.loads(path.read_text()), trial)]


def _is_of(found: dict[str, Any], trial: Trial) -> bool:
    """Whether numbers were measured with the configuration that the trial's overrides make today."""
    return bool(identity(found["config"]) == identity(_configuration(trial.overrides.split(), found["seed"])))


def _configuration(overrides: list[str], seed: int) -> DictConfig:
    held_out = [f"seed={seed}", f"dataset.val_size={HELD_OUT}"]
    return configuration([*overrides, *held_out, "device=cpu", "threads=1"])


def _cells(trial: Trial, found: list[dict[str, Any]]) -> list[str]:
    def values(key: str) -> list[float]:
        return [each[key] for each in found if each.get(key) is not None]

    return [
        trial.name,
        f"{found[0]['iterations']:,}",
        str(len(found)),
        *(_spread(values(key)) for key in ("error", "averaged_error", "fresh_error", "off_diagonal")),
        f"{mean(values('cpu_seconds')) / 60:.1f}",
    ]


def _machines(rows: list[tuple[Trial, list[dict[str, Any]]]]) -> list[str]:
    return sorted({each["machine"] for _, found in rows for each in found})


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
