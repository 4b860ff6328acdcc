"""Our side of a comparison: training steps and data pipelines exactly as train.py makes them, ready to be timed."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from experiments.benchmarks.baselines import BATCH, has_mnist, plain_network
from experiments.benchmarks.timing import Work
from experiments.engine.build import build
from experiments.engine.compute import Compute, choose, set_allocator
from experiments.engine.configuration import configuration
from experiments.engine.optim import make_optimizer
from experiments.engine.run import assemble
from experiments.engine.step import EagerStep, make_step
from stn.convolution import Conv2d, plain_operations
from stn.models.mnist import average_pool

SIDE = {"mnist_r": 28, "mnist_p": 28, "mnist_e": 28, "mnist_rts": 42, "mnist_tc": 60}  # pixels of an image
LABELS = {"fcn": "FCN", "cnn": "CNN", "st_fcn": "ST-FCN affine", "st_cnn": "ST-CNN affine"}


def label(experiment: str, model: str) -> str:
    """Such as "RTS, ST-CNN affine"."""
    return f"{experiment.removeprefix('mnist_').upper()}, {LABELS[model]}"


def config(*overrides: str) -> DictConfig:
    return configuration([*overrides, "wandb.mode=disabled"])


def digits_config(experiment: str, *overrides: str) -> DictConfig:
    """The experiment on MNIST where its files are here, else on the digits that come with scikit-learn."""
    elsewhere = [] if has_mnist() else ["dataset=digits"]
    return config(f"experiment={experiment}", *overrides, *elsewhere)


def distortion_pipeline(experiment: str) -> Work:
    """Fresh training batches on the CPU, a unit an image."""
    data = build(digits_config(experiment).dataset, seed=0, device="cpu")
    return Work(data.train_stream(BATCH).next_batch, BATCH)


@dataclass
class SameBatch:
    """A stream that costs nothing: the same batch for ever."""

    images: Tensor
    labels: Tensor

    def next_batch(self) -> tuple[Tensor, Tensor]:
        return self.images, self.labels


def step_of(
    cfg: DictConfig, network: nn.Module, stream: Any, compute: Compute, graph: bool = False
) -> EagerStep:
    """A training step with the configuration's task and optimiser."""
    settings: Any = OmegaConf.to_container(cfg.optimizer, resolve=True)
    optimizer = make_optimizer(network, settings, plain=compute.plain)
    return make_step(network.train(), optimizer, stream, build(cfg.task), compute.autocast, graph=graph)


def training_step(
    experiment: str, model: str, *own: str, precision: str = "auto", data: bool = True, device: str = "cpu"
) -> Work:
    """A training step of 256 images.   own: overrides.   data: distort each batch afresh, else use one for ever."""
    cfg = digits_config(experiment, f"model={model}", *own, f"trainer.precision={precision}")
    compute = choose(device, precision, None)
    source, network = assemble(cfg, compute.device)
    stream = source.train_stream(BATCH)
    stream = stream if data else SameBatch(*stream.next_batch())
    return Work(step_of(cfg, network, stream, compute, graph=compute.graph and data))


def digits_network(side: int, *overrides: str) -> Any:
    """A network without its data.   side: of the images, pixels."""
    return build(config(*overrides).model, in_shape=(1, side, side), num_classes=10)


def twin_of(network: Any, model: str, side: int) -> nn.Module:
    """The same network as tutorials write it, with weights of its own."""
    return plain_network(model, side, network.width, getattr(network, "pool", 1))


def stacked_step(experiment: str, model: str, seeds: int) -> Work:
    """A step of several seeds in one process: plain networks with stacked parameters under torch.func.vmap."""
    compute = choose("cpu", "auto", None)
    source, network = assemble(digits_config(experiment, f"model={model}"), compute.device)
    stream = source.train_stream(BATCH)
    twin = twin_of(network, model, SIDE[experiment])
    parameters, buffers = torch.func.stack_module_state([twin] * seeds)
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
    overrides = ["experiment=mnist_r", f"model.width={width}"]
    compute = choose("cpu", "auto", None)
    network = digits_network(side, *overrides).to(memory_format=torch.channels_last)
    stream = SameBatch(torch.rand(batch, 1, side, side), torch.randint(10, (batch,)))
    return Work(step_of(config(*overrides), network, stream, compute))


def convolution(plain: bool, channels: int, side: int, kernel: int) -> Work:
    """Forward and backward of a convolution of the ST-CNN on R, its input's gradient included, in bfloat16."""
    layer = Conv2d(channels, 88, kernel).to(memory_format=torch.channels_last)

    def forward(image: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16), plain_operations() if plain else nullcontext():
            return layer(image)

    image = torch.rand(BATCH, channels, side, side).to(memory_format=torch.channels_last)
    return _backward(forward, image, *layer.parameters())


def halving(plain: bool) -> Work:
    """Forward and backward of the pooling behind two transformers of two 42x42 channels (MNIST addition)."""
    pool = partial(F.avg_pool2d, ceil_mode=True) if plain else average_pool
    return _backward(lambda image: pool(image, 2), torch.rand(BATCH, 4, 42, 42))


def _backward(forward: Callable[[Tensor], Tensor], image: Tensor, *parameters: Tensor) -> Work:
    choose("cpu", "auto", None)
    image.requires_grad_()
    upstream = torch.rand_like(forward(image).detach())
    return Work(lambda: torch.autograd.grad(forward(image), (image, *parameters), upstream))


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
