"""Data-parallel training: `torchrun --nproc_per_node=N train.py ...`. One process alone is the same with N = 1."""

import contextlib
import copy
import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from experiments.engine.build import UserError

PATIENCE = timedelta(hours=3)  # for the first process, which tests alone while the others wait


class Group:
    """The processes that train one network together, each on an equal part of every batch.

    rank: this process's number.   size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes, logs and tests."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """What the first process has, in all of them."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def total(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Sums over all processes, as numbers. On the device until here: nothing waits for a GPU before."""
        if self.size > 1:
            names = sorted(sums)
            values = torch.stack([sums[name].detach().double() for name in names])
            dist.all_reduce(values)
            return dict(zip(names, values.tolist(), strict=True))
        return {name: value.item() for name, value in sums.items()}

    def wrap(self, task: Any, model: nn.Module) -> Any:
        """A task whose `loss` leaves every process, after the backward pass, the mean of all gradients."""
        return Together(task, model) if self.size > 1 else task

    def part(self, stream: Any) -> Any:
        """The stream of this process's part of every batch.

        raises: UserError for a batch that does not divide.
        """
        return stream if self.size == 1 else Part(stream, self.rank, self.size)

    def prepare(self, model: nn.Module, task: Any) -> nn.Module:
        """On GPUs, batch statistics over all processes.

        raises: UserError for a task that compares the images of a batch with each other.
        """
        if self.size == 1:
            return model
        if not getattr(task, "separable", True):
            raise UserError(
                "This experiment compares all images of a batch with each other and does not divide among processes: "
                "run it with python train.py."
            )
        if next(model.parameters()).is_cuda:
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return model


class Together(DistributedDataParallel):
    """A task's loss as DDP's forward pass.

    DDP averages only the gradients of its own forward pass. The loss as a whole is that pass, not the network alone, so
    that a task may call any method of the network.
    """

    def __init__(self, task: Any, model: nn.Module) -> None:
        device = next(model.parameters()).device
        super().__init__(_Loss(task, model), device_ids=[device] if device.type == "cuda" else None)

    def loss(self, model: nn.Module, batch: Any) -> Any:
        """As the task's own; `model` is the network that was given at first."""
        return self(batch)


class _Loss(nn.Module):
    def __init__(self, task: Any, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Any) -> Any:
        return self.task.loss(self.model, batch)


class Part:
    """Every process draws the same batches, and takes its own rows of each: together they are those of one process.

    A stream that can leave out the others' rows has an attribute `rows`, a slice.
    """

    def __init__(self, stream: Any, rank: int, size: int) -> None:
        if stream.batch_size % size:
            raise UserError(
                f"trainer.batch_size={stream.batch_size} does not divide among {size} processes: choose a multiple."
            )
        self.stream, self.mine = stream, slice(rank, None, size)
        if hasattr(stream, "rows"):
            stream.rows = self.mine

    def next_batch(self) -> tuple[Tensor, ...]:
        batch: tuple[Tensor, ...] = self.stream.next_batch()
        return batch if hasattr(self.stream, "rows") else tuple(each[self.mine] for each in batch)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.stream.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Part":
        twin = copy.copy(self)
        twin.stream = copy.deepcopy(self.stream, memo)
        return twin


@contextlib.contextmanager
def joined(device: str) -> Iterator[Group]:
    """This process's group: as torchrun's environment says, or alone.

    device: as of the configuration; on GPUs each process takes the one of its number.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    if dist.is_initialized():
        raise UserError(
            "This experiment trains another network on the way, which several processes cannot: run it with python "
            "train.py."
        )
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise UserError(
                f"There are {torch.cuda.device_count()} GPUs for more processes: lower --nproc_per_node, or device=cpu."
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)
    group = Group(dist.get_rank(), size)
    if not group.first:
        logging.getLogger("experiments").setLevel(logging.WARNING)
    try:
        yield group
        dist.barrier()  # no one hangs up while another still talks
    finally:
        dist.destroy_process_group()
