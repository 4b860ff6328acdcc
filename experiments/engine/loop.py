"""The training loop. It sees objects and numbers, and names no experiment."""

import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from experiments.engine.checkpoint import random_state, restore_random_state
from experiments.engine.distributed import Group
from experiments.engine.step import Autocast, make_step


@dataclass
class Training:
    """Everything that changes while training: what a checkpoint holds."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    stream: Any  # next_batch() -> (images, labels); state_dict(), load_state_dict()
    step: int = 0
    seconds: float = 0.0  # of training, over all resumptions

    def state_dict(self) -> dict[str, Any]:
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
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.stream.load_state_dict(state["stream"])
        restore_random_state(state["random"])
        self.step = state["step"]
        self.seconds = state["seconds"]


def train(
    training: Training,
    task: Any,
    *,
    iterations: int,
    autocast: Autocast,
    graph: bool,
    log_every: int,
    checkpoint_every: int,
    log: Callable[[int, dict[str, float]], None],
    checkpoint: Callable[[], None],
    val_every: int = 0,
    validate: Callable[[], dict[str, float]] | None = None,
    snapshot_every: int = 0,
    snapshot: Callable[[int], None] | None = None,
    group: Group | None = None,
) -> None:
    """Trains to `iterations`, from wherever `training` stands.

    autocast: context of the forward pass.   graph: replay the step as a CUDA graph.
    task: `loss(model, batch) -> (loss, sums, aux)` and `watch(model, aux) -> numbers`. Of the sums, `loss` and `images`
        are the batch's; any other, such as `errors`, is a count, logged as `train/error`, percent of the images.
    log(step, numbers) every `log_every` steps and at the end; checkpoint() every `checkpoint_every`, a multiple of it;
        A task that changes over the training has `at(model, share)`, told before each step how much of it is done.
        snapshot(step) before the first step and every `snapshot_every` steps.
    group: the processes that train together; None: this one alone.
    raises: FloatingPointError once the loss or theta is not finite; the checkpoint before it stays.
    """
    group = group or Group()
    model, optimizer = training.model.train(), training.optimizer
    step = make_step(model, optimizer, training.stream, group.wrap(task, model), autocast, graph=graph)
    sums: dict[str, torch.Tensor] = {}
    bar = tqdm(
        total=iterations,
        initial=training.step,
        unit="step",
        dynamic_ncols=True,
        smoothing=0.05,
        disable=not (group.first and sys.stderr.isatty()),
    )
    started = logged = time.perf_counter()
    before = training.seconds
    if snapshot and snapshot_every and training.step == 0:
        snapshot(0)
    while training.step < iterations:
        if hasattr(task, "at"):
            task.at(model, training.step / iterations)
        batch_sums, aux = step()  # next batch, loss, backward pass, optimiser
        training.schedule.step()
        training.step += 1
        # Summed on the device and read only when logged, so that a GPU is never waited for in between.
        sums = {key: sums[key] + value if sums else value for key, value in batch_sums.items()}
        bar.update()

        last = training.step == iterations
        if training.step % log_every == 0 or last:
            totals = group.total(sums)
            now = time.perf_counter()
            images, loss = totals.pop("images"), totals.pop("loss")
            shares = {key.removesuffix("s"): 100 * count / images for key, count in totals.items()}
            numbers = {
                "train/loss": loss / images,
                **{f"train/{key}": share for key, share in shares.items()},
                "images_per_second": images / (now - logged),
                "lr": float(optimizer.param_groups[0]["lr"]),
                **task.watch(model, aux),
            }
            training.seconds = before + now - started
            if not math.isfinite(numbers["train/loss"]):
                raise FloatingPointError(
                    f"The loss is {numbers['train/loss']} at step {training.step}: lower `optimizer.lr` (now "
                    f"{optimizer.defaults['lr']}) or `optimizer.localisation_lr`."
                )
            bar.set_postfix(
                loss=f"{numbers['train/loss']:.3f}",
                **{key: f"{share:.2f}%" for key, share in shares.items()},
                img_s=f"{numbers['images_per_second']:.0f}",
            )
            if validate and val_every and (training.step % val_every == 0 or last):
                numbers |= validate()
            log(training.step, numbers)
            sums, logged = {}, time.perf_counter()
        if snapshot and snapshot_every and training.step % snapshot_every == 0:
            snapshot(training.step)
        if training.step % checkpoint_every == 0 or last:
            checkpoint()
    bar.close()


def seconds_per_step(training: Training, task: Any, autocast: Autocast) -> float:
    """A step's time, measured on copies: nothing that a run depends on moves. Median of three after a warm-up."""
    model, stream = copy.deepcopy(training.model).train(), copy.deepcopy(training.stream)
    state, times = random_state(), []
    for _ in range(4):
        start = time.perf_counter()
        with autocast():
            loss, sums, _ = task.loss(model, stream.next_batch())
        loss.backward()
        sums["loss"].item()  # waits for a GPU
        times.append(time.perf_counter() - start)
    restore_random_state(state)
    return sorted(times[1:])[1]
