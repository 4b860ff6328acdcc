"""What the parts of a run must offer: task, network, data, stream, section."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from experiments.engine.result import Result

Batch = tuple[
    Tensor, ...
]  # images (B, C, H, W) in [0, 1], labels (B, ...), and what else the data set knows of each
Sums = dict[str, Tensor]  # scalars, summed over the images of a batch
Aux = dict[str, Tensor]  # intermediate results of a network


class Network(Protocol):
    """What tasks and figures expect of a network, which is an `nn.Module`.

    A network with spatial transformers also has `transformers`; one whose size is a single number, `width`.

    Example:
        >>> logits, aux = st_cnn((1, 28, 28), transform=Affine())(images)  # images (B, 1, 28, 28)
        >>> logits.shape, aux["theta"].shape, aux["warped"].shape
        ((B, 10), (B, 1, 6), (B, 1, 1, 28, 28))
    """

    def __call__(self, images: Tensor, /) -> tuple[Tensor, Aux]:
        """Computes the output of a batch.

        Args:
            images: (B, C, H, W), or (B, C, D, H, W), in [0, 1].

        Returns:
            The output that the task reads, such as logits (B, classes), and aux. Without transformers aux is empty.
            With K parallel ones it has `theta` (B, K, num_params) and `warped` (B, K, C, h, w).
        """
        ...


class Task:
    """What a network learns, and how it is measured. A subclass defines `loss` and `evaluate`; the rest has defaults.

    Attributes:
        separable: whether the loss is a mean over the images of a batch. Several processes then share each batch.
    """

    separable = True

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Sums, Aux]:
        """Computes the loss of one training batch.

        Returns:
            The scalar to minimise; sums over the batch; the network's aux. `sums` has `images`, the number of images,
            and `loss`, the loss times that number. Every other entry is a count: `errors` is logged as
            `train/error`, in percent of the images.

        Example:
            >>> task.loss(model, (images, labels))  # 32 images, 20 of them wrong
            (tensor(1.9), {"loss": tensor(60.8), "errors": tensor(20), "images": tensor(32)}, {"theta": ...})
        """
        raise NotImplementedError

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[dict[str, float], Tensor]:
        """Measures a network on a fixed set, in evaluation mode; leaves it in training mode.

        Returns:
            The metrics over all images, and the predictions (N, ...) on the CPU. A result has each metric as
            `test_<name>`. `error`, in percent, chooses the best checkpoint when the set is the validation set.

        Example:
            >>> task.evaluate(model, data.test.batches(500))
            ({"error": 0.71, "loss": 0.025}, tensor([7, 2, 1, ...]))
        """
        raise NotImplementedError

    def details(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """Measures what is kept of a trained network's test set beside metrics and predictions, for pictures.

        Returns:
            Name -> tensor, of few bytes: every published run keeps them. By default none.

        Example:
            >>> task.details(model, data.test.batches(500))
            {"residual": tensor([1.5, -3.2, ...], dtype=torch.float16)}
        """
        return {}

    def watch(self, model: nn.Module, aux: Aux) -> dict[str, float]:
        """Returns numbers to log about the last training batch, such as {"st0/in_frame": 0.98}."""
        return {}

    def at(self, model: nn.Module, share: float) -> None:
        """Sets what changes over the training; called before each step. A recorded CUDA graph does not repeat it.

        Args:
            model: the network.
            share: share of the training that is done, 0 to 1.
        """

    @property
    def paced(self) -> bool:
        """Whether `at` changes anything: the same step is then another one in a longer training."""
        return type(self).at is not Task.at

    def to(self, device: torch.device) -> None:
        """Moves the task's own tensors and networks to the device."""


class Batches(Protocol):
    """Training batches without end: all that an eager step needs."""

    def next_batch(self) -> Batch:
        """Returns images (batch_size, C, H, W), float32 in [0, 1], and labels (batch_size,), on the data's device."""
        ...


class Stream(Batches, Protocol):
    """Batches that a resumed run continues.

    A copy by `copy.deepcopy` draws the same batches and leaves the original alone.

    Attributes:
        batch_size: of the whole batch.
    """

    batch_size: int

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and numbers after which, once loaded, the same batches follow to the bit."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state.

        Raises:
            ValueError: the state is of a stream over other data.
        """
        ...


@runtime_checkable
class RecordableStream(Batches, Protocol):
    """A stream whose batches are made on the GPU, so that a CUDA graph can record a step with its data.

    `next_batch()` is `batch(draw())`.

    Attributes:
        generator: the only source of randomness.
    """

    generator: torch.Generator

    def draw(self) -> Tensor:
        """Returns the indices of the next images, always of the same shape. Runs outside the graph."""
        ...

    def batch(self, drawn: Tensor, /) -> Batch:
        """Returns the batch of these indices. Never waits for the GPU, so that a graph can record it."""
        ...


@runtime_checkable
class SliceableStream(Batches, Protocol):
    """A stream that makes only some rows of each batch; every random number is drawn all the same.

    Attributes:
        rows: the rows to make; `slice(None)` for all.
    """

    rows: slice


class FixedSet(Protocol):
    """Images to validate or test on, always the same ones."""

    @property
    def labels(self) -> Tensor:
        """Returns the classes (N,), or (N, ...) other targets."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 of the pixels, as hex digits."""
        ...

    def batches(self, batch_size: int) -> Iterable[Batch]:
        """Returns all images once, in order, in batches of at most so many."""
        ...


class Data(Protocol):
    """A data set, built for one seed and one device."""

    @property
    def name(self) -> str:
        """Returns the name in results and tables, such as mnist."""
        ...

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Returns the shape of an image as the network sees it: (C, H, W), or (C, D, H, W)."""
        ...

    @property
    def num_classes(self) -> int | None:
        """Returns the number of classes; None for images without classes."""
        ...

    @property
    def val(self) -> FixedSet | None:
        """Returns the held-out part of the training images; None where nothing is held out."""
        ...

    @property
    def test(self) -> FixedSet:
        """Returns the test set, the same for every seed. It may be made on first use."""
        ...

    def train_stream(self, batch_size: int, /) -> Stream:
        """Returns a new stream from its start.

        Raises:
            ValueError: there are fewer training images.
        """
        ...


@runtime_checkable
class DescribedData(Protocol):
    """A data set of whose content a run says something before it trains."""

    @property
    def description(self) -> str:
        """Returns one line, such as the classes with the number of their images."""
        ...


class Section(Protocol):
    """What a section of the paper adds to its runs: pictures, and the paper's number beside ours."""

    @property
    def name(self) -> str:
        """Returns the value of `section` that chooses it."""
        ...

    def figures(self, model: nn.Module, data: Any, folder: Path, result: Result, /) -> dict[str, Path]:
        """Draws pictures of a trained network into the run directory and returns name -> path."""
        ...

    def batch(
        self, images: Tensor, labels: Tensor, data: Any, folder: Path, run: Mapping[str, Any], /
    ) -> dict[str, Path]:
        """Draws a training batch into the run directory and returns name -> path; `run` names network and data."""
        ...

    def against_paper(self, result: Result, /) -> dict[str, Any] | None:
        """Returns a run's line in the section's table, column -> text or number; None for a run without a place."""
        ...
