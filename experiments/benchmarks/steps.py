"""Our side of a comparison: training steps and data pipelines exactly as train.py makes them, ready to be timed."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from experiments.benchmarks import baselines
from experiments.benchmarks.timing import Work
from experiments.engine.build import build
from experiments.engine.compute import Compute, choose, set_allocator
from experiments.engine.configuration import configuration
from experiments.engine.optim import make_optimizer
from experiments.engine.run import assemble
from experiments.engine.step import EagerStep, make_step
from stn.convolution import Conv2d, plain_operations
from stn.datasets.streams import TrainStream
from stn.models.mnist import average_pool

ROOT = Path(__file__).resolve().parents[2]
BATCH = 256
SIDE = {"mnist_r": 28, "mnist_p": 28, "mnist_e": 28, "mnist_rts": 42, "mnist_tc": 60}  # pixels of an image
LABELS = {"fcn": "FCN", "cnn": "CNN", "st_fcn": "ST-FCN affine", "st_cnn": "ST-CNN affine"}


def label(experiment: str, model: str) -> str:
    """Such as "RTS, ST-CNN affine"."""
    return f"{experiment.removeprefix('mnist_').upper()}, {LABELS[model]}"


def config(*overrides: str) -> DictConfig:
    return configuration([*overrides, "wandb.mode=disabled"])


def digits_config(experiment: str, *overrides: str) -> DictConfig:
    """The experiment on MNIST where its files are here, else on the digits that come with scikit-learn."""
    elsewhere = [] if baselines.has_mnist() else ["dataset=digits"]
    return config(f"experiment={experiment}", *overrides, *elsewhere)


def distortion_pipeline(experiment: str) -> Work:
    """Fresh training batches on the CPU, a unit an image."""
    data = build(digits_config(experiment).dataset, seed=0, device="cpu")
    return Work(data.train_stream(BATCH).next_batch, BATCH)


class SameBatch:
    """A stream that costs nothing: the same batch for ever."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._batch = images, labels

    def next_batch(self) -> tuple[Tensor, Tensor]:
        return self._batch


def step_of(
    cfg: DictConfig, network: nn.Module, stream: Any, compute: Compute, graph: bool = False
) -> EagerStep:
    """A training step with the configuration's task and optimiser."""
    settings = OmegaConf.to_container(cfg.optimizer, resolve=True)
    assert isinstance(settings, dict)
    optimizer = make_optimizer(network, {str(k): v for k, v in settings.items()}, plain=compute.plain)
    return make_step(network.train(), optimizer, stream, build(cfg.task), compute.autocast, graph=graph)


def training_step(
    experiment: str,
    model: str,
    width: int | None = None,
    precision: str = "auto",
    data: bool = True,
    device: str = "cpu",
) -> Work:
    """A training step of 256 images.   data: distort each batch afresh, else use one for ever."""
    widths = [] if width is None else [f"model.width={width}"]
    cfg = digits_config(experiment, f"model={model}", *widths)
    cfg.trainer.precision = precision
    compute = choose(device, precision, None)
    stream, network = stream_and_network(cfg, compute)
    source = stream if data else SameBatch(*stream.next_batch())
    return Work(step_of(cfg, network, source, compute, graph=compute.graph and data))


def stream_and_network(cfg: DictConfig, compute: Compute) -> tuple[TrainStream, nn.Module]:
    data, network = assemble(cfg, compute.device)
    return data.train_stream(BATCH), network


def width_of(experiment: str, model: str) -> int:
    """The width that the budget of 400,000 parameters gives."""
    cfg = config(f"experiment={experiment}", f"model={model}")
    side = SIDE[experiment]
    return int(build(cfg.model, in_shape=(1, side, side), num_classes=10).width)


def stacked_step(experiment: str, model: str, seeds: int) -> Work:
    """A step of several seeds in one process: plain networks with stacked parameters under torch.func.vmap."""
    cfg = digits_config(experiment, f"model={model}")
    compute = choose("cpu", "auto", None)
    stream, _ = stream_and_network(cfg, compute)
    twin = baselines.plain_network(
        model, SIDE[experiment], width_of(experiment, model), cfg.model.get("pool", 1)
    )
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

    return Work(step, seeds)


def sized_step(side: int, batch: int, width: int) -> Work:
    """A training step of the ST-CNN affine on one batch of random images."""
    cfg = config("experiment=mnist_r", f"model.width={width}")
    compute = choose("cpu", "auto", None)
    network = build(cfg.model, in_shape=(1, side, side), num_classes=10).to(memory_format=torch.channels_last)
    stream = SameBatch(torch.rand(batch, 1, side, side), torch.randint(10, (batch,)))
    return Work(step_of(cfg, network, stream, compute))


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

    return Work(call)


def halving(plain: bool) -> Work:
    """Forward and backward of the pooling behind two transformers of two 42x42 channels (MNIST addition)."""
    choose("cpu", "auto", None)
    image = torch.rand(BATCH, 4, 42, 42, requires_grad=True)
    upstream = torch.rand(BATCH, 4, 21, 21)

    def call() -> None:
        out = F.avg_pool2d(image, 2, ceil_mode=True) if plain else average_pool(image, 2)
        torch.autograd.grad(out, image, upstream)

    return Work(call)


def memory_step(experiment: str, model: str, plain: bool) -> Work:
    """A training step.   plain: with the thresholds that glibc's own rule ends at, instead of `keep_memory`'s."""
    work = training_step(experiment, model)
    if plain:
        set_allocator(mapped=32 << 20, trimmed=64 << 20)
    return work


def matrix_product(n: int = 2048) -> Work:
    """n x n x n in the precision that training takes here; a unit is a floating-point operation."""
    compute = choose("cpu", "auto", None)
    dtype = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    a, b = torch.rand(n, n).to(dtype), torch.rand(n, n).to(dtype)
    return Work(lambda: a @ b, 2 * n**3)
