"""Our side of a comparison: exactly what train.py runs, as something that can be timed."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from experiments.benchmarks import peers
from experiments.benchmarks.timing import Work
from experiments.engine.build import build
from experiments.engine.compute import Compute, choose, set_allocator
from experiments.engine.configuration import configuration
from experiments.engine.optim import make_optimizer
from experiments.engine.run import assemble
from experiments.engine.step import make_step
from stn.convolution import Conv2d, plain_operations
from stn.datasets.mnist import TrainStream
from stn.models.mnist import average_pool

ROOT = Path(__file__).resolve().parents[2]
BATCH = 256
SIDE = {"mnist_r": 28, "mnist_p": 28, "mnist_e": 28, "mnist_rts": 42, "mnist_tc": 60}
NAMES = {"fcn": "FCN", "cnn": "CNN", "st_fcn": "ST-FCN affine", "st_cnn": "ST-CNN affine"}


def config(*overrides: str) -> DictConfig:
    return configuration([*overrides, "wandb.mode=disabled"])


class OneBatch:
    """A stream that costs nothing: the same batch for ever."""

    def __init__(self, stream: TrainStream) -> None:
        self._batch = stream.next_batch()

    def next_batch(self) -> tuple[Tensor, Tensor]:
        return self._batch


def our_data(experiment: str, device: str = "cpu") -> TrainStream:
    """The training stream of an experiment, on MNIST if it is there, else on the embedded digits."""
    try:
        cfg = config(f"experiment={experiment}")
        return build(cfg.dataset, seed=0, device=device).train_stream(BATCH)
    except FileNotFoundError:
        cfg = config(f"experiment={experiment}", "dataset=digits")
        return build(cfg.dataset, seed=0, device=device).train_stream(BATCH)


def our_pipeline(experiment: str, device: str = "cpu") -> Work:
    return our_data(experiment, device).next_batch, BATCH


def our_step(
    experiment: str,
    model: str,
    width: int | None = None,
    precision: str = "auto",
    data: bool = True,
    device: str = "cpu",
) -> Work:
    """A training step of 256 images as `train.py experiment= model=` makes it.   data: distort each batch afresh."""
    widths = [] if width is None else [f"model.width={width}"]
    cfg = config(f"experiment={experiment}", f"model={model}", *widths)
    cfg.trainer.precision = precision
    compute = choose(device, precision, None)
    stream, network = assemble_anywhere(cfg, compute)
    optimizer = make_optimizer(network, optimizer_config(cfg), plain=compute.plain)
    step = make_step(
        network.train(),
        optimizer,
        stream if data else OneBatch(stream),
        build(cfg.task),
        compute.autocast,
        graph=compute.graph and data,
    )
    return step, 1


def optimizer_config(cfg: DictConfig) -> dict[str, Any]:
    held = OmegaConf.to_container(cfg.optimizer, resolve=True)
    assert isinstance(held, dict)
    return {str(key): value for key, value in held.items()}


def assemble_anywhere(cfg: DictConfig, compute: Compute) -> tuple[TrainStream, nn.Module]:
    try:
        data, network = assemble(cfg, compute.device)
    except FileNotFoundError:
        cfg.dataset = config(f"experiment={cfg.experiment}", "dataset=digits").dataset
        data, network = assemble(cfg, compute.device)
    return data.train_stream(BATCH), network


def width_of(experiment: str, model: str) -> int:
    """The width that the 400k budget gives."""
    cfg = config(f"experiment={experiment}", f"model={model}")
    side = SIDE[experiment]
    return build(cfg.model, in_shape=(1, side, side), num_classes=10).width


def together(experiment: str, model: str, seeds: int) -> Work:
    """A step of `seeds` networks at once: their parameters stacked, the plain network vmapped, in bfloat16."""
    cfg = config(f"experiment={experiment}", f"model={model}")
    compute = choose("cpu", "auto", None)
    stream, network = assemble_anywhere(cfg, compute)
    twin = peers.plain_network(model, SIDE[experiment], network.width, cfg.model.get("pool", 1))
    parameters, buffers = torch.func.stack_module_state([copy.deepcopy(twin) for _ in range(seeds)])
    optimizer = torch.optim.SGD(list(parameters.values()), lr=0.01, momentum=0.9, fused=True)

    def loss(p: dict[str, Tensor], b: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        with compute.autocast():
            logits = torch.func.functional_call(twin, (p, b), (images,))
        return F.cross_entropy(logits.float(), labels)

    def step() -> None:
        batches = [stream.next_batch() for _ in range(seeds)]
        images, labels = (torch.stack(part) for part in zip(*batches, strict=True))
        optimizer.zero_grad(set_to_none=True)
        torch.func.vmap(loss)(parameters, buffers, images, labels).sum().backward()
        optimizer.step()

    return step, seeds


def sized_step(side: int, batch: int, width: int, precision: str = "auto") -> Work:
    cfg = config("experiment=mnist_r", f"model.width={width}")
    compute = choose("cpu", precision, None)
    network = build(cfg.model, in_shape=(1, side, side), num_classes=10)
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(network, optimizer_config(cfg))
    images, labels = torch.rand(batch, 1, side, side), torch.randint(10, (batch,))

    class Stream:
        def next_batch(self) -> tuple[Tensor, Tensor]:
            return images, labels

    return make_step(network, optimizer, Stream(), build(cfg.task), compute.autocast, graph=False), 1


def first_layer(plain: bool) -> Work:
    """Forward and backward of the ST-CNN's first convolution on R, its input's gradient included, in bfloat16."""
    choose("cpu", "auto", None)
    layer = Conv2d(1, 88, 9).to(memory_format=torch.channels_last)
    image = torch.rand(BATCH, 1, 28, 28, requires_grad=True)
    upstream = torch.rand(BATCH, 88, 20, 20).to(memory_format=torch.channels_last)

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16), plain_operations() if plain else nullcontext():
            out = layer(image)
        torch.autograd.grad(out, (image, *layer.parameters()), upstream.to(out.dtype))

    return call, 1


def halving(plain: bool) -> Work:
    """Forward and backward of the pooling behind two transformers of two 42x42 channels (MNIST addition)."""
    choose("cpu", "auto", None)
    image = torch.rand(BATCH, 4, 42, 42, requires_grad=True)
    upstream = torch.rand(BATCH, 4, 21, 21)

    def call() -> None:
        out = F.avg_pool2d(image, 2, ceil_mode=True) if plain else average_pool(image, 2)
        torch.autograd.grad(out, image, upstream)

    return call, 1


def memory_step(experiment: str, model: str, keep: bool) -> Work:
    """A training step with glibc's settings as they are, or as `keep_memory` sets them."""
    step, work = our_step(experiment, model)
    if not keep:  # what glibc's own rule ends at
        set_allocator(mapped=32 << 20, trimmed=64 << 20)
    return step, work


def matrix_product(n: int = 2048) -> Work:
    """n x n x n in the precision that training takes here; the work is its floating-point operations."""
    compute = choose("cpu", "auto", None)
    dtype = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    a, b = torch.rand(n, n).to(dtype), torch.rand(n, n).to(dtype)
    return lambda: a @ b, 2 * n**3
