"""One training step: eager, or recorded once and replayed as a CUDA graph."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.engine.interfaces import Aux, Batch, Batches, RecordableStream, Sums, Task

Autocast = Callable[[], AbstractContextManager[object]]


class EagerStep:
    """Draws a batch, computes the loss and its gradient, and updates the parameters."""

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, stream: Batches, task: Task, autocast: Autocast
    ) -> None:
        self.model, self.optimizer, self.task, self.autocast = model, optimizer, task, autocast
        self.next_batch = stream.next_batch

    def __call__(self) -> tuple[Sums, Aux]:
        """Takes a step and returns the sums and aux of its batch, as `Task.loss`."""
        return self._update(self.next_batch())

    def _update(self, batch: Batch) -> tuple[Sums, Aux]:
        with self.autocast():
            loss, sums, aux = self.task.loss(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return sums, aux


class GraphStep(EagerStep):
    """The same step as one CUDA graph, data included: launching the kernels takes longer than small networks compute.

    `stream.draw()` chooses the images outside the graph. `stream.batch(index)`, which distorts them, is recorded
    with everything after it. The stream's generator is registered with the graph, so that each replay draws new
    numbers. Learning rates become tensors, so that the schedule reaches the recorded optimiser. The first steps are
    eager, so that every buffer that is made on first use exists before the recording.
    """

    EAGER = 3

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, stream: RecordableStream, task: Task, autocast: Autocast
    ) -> None:
        super().__init__(model, optimizer, stream, task, autocast)
        self.stream = stream
        self._done = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        device = next(model.parameters()).device
        for group in optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device).clone()
            if "capturable" in group:
                group["capturable"] = True
        for state in optimizer.state.values():  # of a checkpoint that was written without a graph
            if "step" in state:
                state["step"] = state["step"].to(device)

    def __call__(self) -> tuple[Sums, Aux]:
        if self._graph is None:
            self._done += 1
            if self._done <= self.EAGER:
                return self._eager()
        drawn = self.stream.draw()
        if self._graph is None:
            self._graph = self._record(drawn)
        self._index.copy_(drawn)
        self._graph.replay()
        return {key: value.clone() for key, value in self._sums.items()}, self._aux

    def _eager(self) -> tuple[Sums, Aux]:
        side = torch.cuda.Stream()  # a graph's warm-up must not run on the default stream
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            out = super().__call__()
        torch.cuda.current_stream().wait_stream(side)
        return out

    def _record(self, drawn: Tensor) -> torch.cuda.CUDAGraph:
        """Records a step without running it. Only the shape of `drawn` counts."""
        self._index = drawn.clone()
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.stream.generator)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            self._sums, self._aux = self._update(self.stream.batch(self._index))
        return graph


def make_step(
    model: nn.Module, optimizer: Optimizer, stream: Batches, task: Task, autocast: Autocast, *, graph: bool
) -> EagerStep:
    """Makes the function that takes one training step.

    Args:
        model: the network, in training mode.
        optimizer: of the network's parameters. Its state is adapted to the kind of step.
        stream: gives the batches.
        task: gives the loss.
        autocast: makes the context of the forward pass.
        graph: whether to replay a CUDA graph. A stream that cannot be recorded is stepped eagerly all the same.
    """
    if graph and isinstance(stream, RecordableStream):
        return GraphStep(model, optimizer, stream, task, autocast)
    for group in optimizer.param_groups:  # of a checkpoint that was written with a graph
        group["lr"] = float(group["lr"])
        if "capturable" in group:
            group["capturable"] = False
    return EagerStep(model, optimizer, stream, task, autocast)
