"""One training step: eager, or recorded once and replayed as a CUDA graph."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Sums = dict[str, Tensor]
Aux = dict[str, Tensor]
Autocast = Callable[[], AbstractContextManager[Any]]


class EagerStep:
    """stream.next_batch(), loss, backward pass, optimiser."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, stream: Any, task: Any, autocast: Autocast):
        self.model, self.optimizer, self.stream, self.task = model, optimizer, stream, task
        self.autocast = autocast

    def __call__(self) -> tuple[Sums, Aux]:
        return self._update(self.stream.next_batch())

    def _update(self, batch: Any) -> tuple[Sums, Aux]:
        with self.autocast():
            loss, sums, aux = self.task.loss(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return sums, aux


class GraphStep(EagerStep):
    """The same step as one CUDA graph, data and all: a network this small is launch-bound on a GPU.

    Only which digits come next is decided outside, by `stream.draw()`; `stream.batch(index)`, which distorts them, is
    recorded with everything after it. The stream's generator is registered with the graph, so that each replay draws
    on; learning rates become tensors, so that the schedule reaches the recorded optimiser. The first steps are eager
    ones: they bring every lazily made buffer into being, outside the graph.
    """

    EAGER = 3

    def __init__(self, model: nn.Module, optimizer: Optimizer, stream: Any, task: Any, autocast: Autocast):
        super().__init__(model, optimizer, stream, task, autocast)
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
        """Nothing runs while it is recorded.   drawn: what `stream.draw()` gives, for its shape."""
        self._index = drawn.clone()
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.stream.generator)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            self._sums, self._aux = self._update(self.stream.batch(self._index))
        return graph


def make_step(
    model: nn.Module, optimizer: Optimizer, stream: Any, task: Any, autocast: Autocast, *, graph: bool
) -> EagerStep:
    """graph: replay, where the stream can be recorded (it has `draw` and `batch`, and makes its batches on the GPU)."""
    if graph and hasattr(stream, "draw"):
        return GraphStep(model, optimizer, stream, task, autocast)
    for group in optimizer.param_groups:  # of a checkpoint that was written with a graph
        group["lr"] = float(group["lr"])
        if "capturable" in group:
            group["capturable"] = False
    return EagerStep(model, optimizer, stream, task, autocast)
