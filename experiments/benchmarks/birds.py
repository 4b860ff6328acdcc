"""Suite birds: the time of an image with and without transformers, at 224 and 448 pixels, and of each stage."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.steps import SameBatch, config, step_of
from experiments.benchmarks.timing import Row, Work, in_turn, ratio
from experiments.engine.build import build
from experiments.engine.compute import Compute, choose
from stn import sample
from stn.models.images import ImageCNN

CASES = {
    "cub_cnn_224": "CNN, 224 px",
    "cub_2st_224": "2xST-CNN, 224 px",
    "cub_2st_448": "2xST-CNN, 448 px",
    "cub_4st_448": "4xST-CNN, 448 px",
}
BATCH, CLASSES = 8, 200
STAGES = ("localisation", "sampling", "backbones")


def network(experiment: str) -> tuple[Any, Tensor, Compute]:
    """The experiment's network on untrained MobileNetV2, and a batch of random images."""
    cfg = config(f"experiment={experiment}", "backbone=mobilenet_v2", "backbone.weights=none")
    compute = choose("auto", "auto", None)
    torch.manual_seed(0)
    side = cfg.dataset.size
    model = build(cfg.model, in_shape=(3, side, side), num_classes=CLASSES).to(compute.device)
    images = torch.rand(BATCH, 3, side, side, device=compute.device)
    return model.to(memory_format=torch.channels_last).train(), images, compute


def bird_step(experiment: str) -> Work:
    """A training step on one batch, with theta's gradient as the sampler gives it; a unit is an image."""
    model, images, compute = network(experiment)
    cfg = config(f"experiment={experiment}", "trainer=fast")
    cfg.task = config(f"experiment={experiment}").task  # the short schedule smooths theta's gradient
    labels = torch.randint(CLASSES, (BATCH,), device=images.device)
    return Work(step_of(cfg, model, SameBatch(images, labels), compute), BATCH)


def bird_stage(experiment: str, stage: str) -> Work:
    """One stage of the network, forward and backward; a unit is an image.   stage: one of STAGES."""
    model, images, compute = network(experiment)
    stages: dict[str, Callable[[], list[Tensor]]]
    if isinstance(model, ImageCNN):
        image = images.clone().requires_grad_()
        stages = {"backbones": lambda: [model.backbone(image)]}
    else:
        with torch.no_grad():
            warped = model(images)[1]["warped"].float().unbind(1)
        crops = [crop.clone().requires_grad_() for crop in warped]
        theta = torch.zeros(BATCH, 2, device=images.device, requires_grad=True)
        parallel = model.transformers
        size = parallel.out_size or images.shape[2:]
        stages = {
            "localisation": lambda: [model.locate(images)],
            "sampling": lambda: [
                sample(images, parallel.transform.grid(theta, size)) for _ in range(parallel.count)
            ],
            "backbones": lambda: [net(crop) for net, crop in zip(model.backbones, crops, strict=True)],
        }
    if stage not in stages:
        raise ValueError(f"A CNN has no {stage}.")

    def call() -> None:
        with compute.autocast():
            loss = torch.stack([out.sum() for out in stages[stage]()]).sum()
        model.zero_grad(set_to_none=True)
        loss.backward()

    return Work(call, BATCH)


def birds(rounds: int) -> list[Row]:
    """Birds: a training step for each image, batches of 8, without data.

    MobileNetV2 in every place of a backbone. Stages are measured by themselves, forward and backward, and given as
    shares of the step; what is missing to 100 is the rest of it, the optimiser most of all.

    The paper: after the transformers 448 pixels cost no more than 224, since the crops are the same.
    """
    makes = {experiment: partial(bird_step, experiment) for experiment in CASES}
    steps = dict(zip(CASES, in_turn(makes, rounds=rounds, at_least=0.5), strict=True))
    rows = []
    for experiment, step in steps.items():
        names = STAGES[2:] if experiment == "cub_cnn_224" else STAGES
        sides = {"step": makes[experiment]} | {name: partial(bird_stage, experiment, name) for name in names}
        whole, *stages = in_turn(sides, rounds=max(rounds // 2, 3), at_least=0.5)
        shares = {stage.label: 100 * ratio(stage, whole)["median"] for stage in stages}
        half = ratio(step, steps["cub_2st_224"]) if experiment == "cub_2st_448" else None
        row = {
            "network": CASES[experiment],
            "image_ms": step.ms,
            "times_the_CNN": ratio(step, steps["cub_cnn_224"]),
        }
        row |= {"times_the_same_at_224_px": half}
        rows.append(row | {f"{name}_percent": shares.get(name) for name in STAGES})
    return rows
