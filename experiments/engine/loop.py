"""The training loop. It sees objects and numbers, and names no experiment."""

import copy
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from experiments.engine.build import Stopped
from experiments.engine.checkpoint import random_state, restore_random_state
from experiments.engine.compute import Compute
from experiments.engine.distributed import Group
from experiments.engine.interfaces import Stream, Task
from experiments.engine.step import make_step


@dataclass
class Training:
    """What is trained, and how far it is. A checkpoint holds everything in it that changes.

    Attributes:
        model: the network.
        task: what it learns.
        optimizer: of its parameters.
        schedule: of the learning rates, stepped after each training step.
        stream: the training batches.
        compute: the device and precision of a step.
        group: the processes that train together.
        step: number of steps taken.
        seconds: time spent on them, over all resumptions.
    """

    model: nn.Module
    task: Task
    optimizer: Optimizer
    schedule: LRScheduler
    stream: Stream
    compute: Compute
    group: Group = field(default_factory=Group)
    step: int = 0
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Returns the checkpoint's content."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "stream": self.stream.state_dict(),
            "random": random_state(),
            "step": self.step,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a checkpoint's content and the state of the global random generators."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.stream.load_state_dict(state["stream"])
        restore_random_state(state["random"])
        self.step = state["step"]
        self.seconds = state["seconds"]


@dataclass(frozen=True)
class Cadence:
    """How many steps to train, and every how many steps something happens.

    Attributes:
        iterations: the last step. It is logged, validated and checkpointed whatever its number.
        log_every: steps between log lines.
        checkpoint_every, val_every: multiples of `log_every`.
        snapshot_every: steps between snapshots, from step 0; None for none.
    """

    iterations: int
    log_every: int
    checkpoint_every: int
    val_every: int
    snapshot_every: int | None = None


class Observer:
    """What the loop calls while it trains. This one does nothing."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the numbers of a step."""

    def validate(self, step: int) -> dict[str, float]:
        """Measures the network and returns `val/...` numbers, which are logged with the others of the step."""
        return {}

    def checkpoint(self) -> None:
        """Saves the training."""

    def snapshot(self, step: int) -> None:
        """Saves the network's weights."""

    def stopping(self) -> bool:
        """Whether the training is to end with a checkpoint now. It is asked at every log line."""
        return False


def train(training: Training, cadence: Cadence, observer: Observer) -> None:
    """Trains from the step that `training` stands at to `cadence.iterations`.

    Each step draws a batch, updates the network and steps the schedule. A log line has the means over the images since
    the line before (`train/loss`, `train/error` in percent and so on, by the sums of `Task.loss`), `images_per_second`,
    `lr` of the first parameter group, and what `Task.watch` says of the last batch.

    Raises:
        Stopped: the observer asked for it. The checkpoint is of the step that the training has come to.
        FloatingPointError: a logged loss, or theta, is not finite. The checkpoint before it stays.
    """
    model, task, optimizer, group = training.model.train(), training.task, training.optimizer, training.group
    compute, iterations = training.compute, cadence.iterations
    graph = compute.graph and group.size == 1
    step = make_step(
        model, optimizer, training.stream, group.wrap(task, model), compute.autocast, graph=graph
    )
    bar = tqdm(
        total=iterations,
        initial=training.step,
        unit="step",
        dynamic_ncols=True,
        smoothing=0.05,
        disable=not (group.first and sys.stderr.isatty()),
    )
    sums: dict[str, Tensor] = {}
    started = logged = time.perf_counter()
    before = training.seconds
    if cadence.snapshot_every and training.step == 0:
        observer.snapshot(0)
    while training.step < iterations:
        task.at(model, training.step / iterations)
        batch_sums, aux = step()
        training.schedule.step()
        training.step += 1
        # Summed on the device and read only when logged, so that no step in between waits for a GPU.
        sums = {key: sums[key] + value if sums else value for key, value in batch_sums.items()}
        bar.update()

        last = training.step == iterations
        if training.step % cadence.log_every == 0 or last:
            totals = group.total(sums)
            now = time.perf_counter()
            training.seconds = before + now - started
            metrics = {
                **_means(totals),
                "images_per_second": totals["images"] / (now - logged),
                "lr": float(optimizer.param_groups[0]["lr"]),
                **task.watch(model, aux),
            }
            _check_finite(metrics["train/loss"], training)
            bar.set_postfix(_postfix(metrics))
            if training.step % cadence.val_every == 0 or last:
                metrics |= observer.validate(training.step)
            observer.log(training.step, metrics)
            sums, logged = {}, time.perf_counter()
        if cadence.snapshot_every and training.step % cadence.snapshot_every == 0:
            observer.snapshot(training.step)
        stopped = training.step % cadence.log_every == 0 and not last and observer.stopping()
        if training.step % cadence.checkpoint_every == 0 or last or stopped:
            observer.checkpoint()
        if stopped:
            raise Stopped(f"Stopped at step {training.step}.")
    bar.close()


def _means(totals: Mapping[str, float]) -> dict[str, float]:
    """The mean loss, and each count as a percentage of the images under its name in the singular."""
    images = totals["images"]
    counts = {key: value for key, value in totals.items() if key not in ("images", "loss")}
    percentages = {f"train/{key.removesuffix('s')}": 100 * value / images for key, value in counts.items()}
    return {"train/loss": totals["loss"] / images, **percentages}


def _check_finite(loss: float, training: Training) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"The loss is {loss} at step {training.step}: lower `optimizer.lr` (now "
            f"{training.optimizer.defaults['lr']}) or `optimizer.localisation_lr`."
        )


def _postfix(metrics: Mapping[str, float]) -> dict[str, str]:
    """What the progress bar shows of a log line."""
    train = {key.removeprefix("train/"): value for key, value in metrics.items() if key.startswith("train/")}
    shown = {key: f"{value:.3f}" if key == "loss" else f"{value:.2f}%" for key, value in train.items()}
    return shown | {"img_s": f"{metrics['images_per_second']:.0f}"}


def seconds_per_step(training: Training) -> float:
    """Measures a step's time on copies, so that nothing that the run depends on changes.

    Returns:
        The median of three steps after a warm-up, in seconds.
    """
    # Together, so that the copied optimizer has the copied parameters. The schedule is not stepped with it.
    model, optimizer, stream = copy.deepcopy((training.model, training.optimizer, training.stream))
    model.train()
    state, times = random_state(), []
    for _ in range(4):
        start = time.perf_counter()
        optimizer.zero_grad()
        with training.compute.autocast():
            loss, sums, _ = training.task.loss(model, stream.next_batch())
        loss.backward()
        optimizer.step()
        sums["loss"].item()  # waits for a GPU
        times.append(time.perf_counter() - start)
    restore_random_state(state)
    return sorted(times[1:])[1]
