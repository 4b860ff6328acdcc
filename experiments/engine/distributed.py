"""Data-parallel training: `torchrun --nproc_per_node=N train.py ...`. A single process is the case N = 1."""

import contextlib
import copy
import importlib
import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from experiments.engine.build import UserError
from experiments.engine.interfaces import Aux, Batch, SliceableStream, Stream, Sums, Task

TIMEOUT = timedelta(hours=3)  # the other processes wait while the first one tests
T = TypeVar("T")


class Group:
    """The processes that train one network together, each on an equal part of every batch.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes, logs and tests."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Returns the first process's value in every process."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def total(self, sums: Sums) -> dict[str, float]:
        """Returns the sums over all processes as numbers; this waits for the GPU."""
        if self.size > 1:
            names = sorted(sums)
            values = torch.stack([sums[name].detach().double() for name in names])
            dist.all_reduce(values)
            return dict(zip(names, values.tolist(), strict=True))
        return {name: value.item() for name, value in sums.items()}

    def wrap(self, task: Task, model: nn.Module) -> Task:
        """Returns a task whose loss has the mean gradient over all processes after its backward pass."""
        return _DistributedTask(task, model) if self.size > 1 else task

    def shard(self, stream: Stream) -> Stream:
        """Returns the stream of this process's part of every batch.

        Raises:
            UserError: the batch size is not a multiple of the number of processes.
        """
        return stream if self.size == 1 else ShardedStream(stream, self.rank, self.size)

    def prepare(self, model: nn.Module, task: Task) -> nn.Module:
        """Returns the network with batch normalisation over all processes, where they are on GPUs.

        Raises:
            UserError: the task's loss is not a mean over images.
        """
        if self.size == 1:
            return model
        if not task.separable:
            raise UserError(
                "This experiment compares all images of a batch with each other and does not divide among processes: "
                "run it with python train.py."
            )
        if next(model.parameters()).is_cuda:
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return model


class _Loss(nn.Module):
    """A task's loss as a module. DDP averages only the gradients of its own forward pass, so the loss must be it."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Batch) -> tuple[Tensor, Sums, Aux]:
        return self.task.loss(self.model, batch)


class _DistributedTask(Task):
    """The task of a training step in several processes. The task may call any method of the network in its loss."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        device = next(model.parameters()).device
        devices = [device] if device.type == "cuda" else None
        self._parallel = DistributedDataParallel(_Loss(task, model), device_ids=devices)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Sums, Aux]:
        result: tuple[Tensor, Sums, Aux] = self._parallel(batch)
        return result


class ShardedStream:
    """Every N-th row of every batch. All processes draw the same batches, so their rows make up those of one process.

    Its state is that of the whole stream: a run may go on with another number of processes.
    """

    def __init__(self, stream: Stream, rank: int, size: int) -> None:
        if stream.batch_size % size:
            raise UserError(
                f"trainer.batch_size={stream.batch_size} does not divide among {size} processes: choose a multiple."
            )
        self.stream, self.batch_size, self.rows = stream, stream.batch_size, slice(rank, None, size)
        if isinstance(stream, SliceableStream):
            stream.rows = self.rows

    def next_batch(self) -> Batch:
        """Returns this process's rows of the next batch."""
        batch = self.stream.next_batch()
        if isinstance(self.stream, SliceableStream):
            return batch
        return tuple(part[self.rows] for part in batch)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the whole stream."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of the whole stream."""
        self.stream.load_state_dict(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ShardedStream":
        twin = copy.copy(self)
        twin.stream = copy.deepcopy(self.stream, memo)
        return twin


@contextlib.contextmanager
def process_group(device: str) -> Iterator[Group]:
    """Joins the processes that torchrun has started, or yields a group of one.

    Args:
        device: as `device` of the configuration. On GPUs each process takes the one of its local rank.

    Raises:
        UserError: there are fewer GPUs than processes, or the process is in a group already.
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
    # torch._dynamo, which the first optimiser step imports, keeps a group that exists at that moment to the end of the
    # program (torch 2.15). The group's Gloo threads then outlive the interpreter and can abort the process.
    importlib.import_module("torch._dynamo")
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise UserError(
                f"There are {torch.cuda.device_count()} GPUs for more processes: lower --nproc_per_node, or device=cpu."
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if gpu else "gloo", timeout=TIMEOUT)
    group = Group(dist.get_rank(), size)
    if not group.first:
        logging.getLogger("experiments").setLevel(logging.WARNING)
    try:
        yield group
        dist.barrier()  # no process ends while another still communicates
    finally:
        dist.destroy_process_group()
