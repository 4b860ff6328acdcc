"""Suite birds: the time of an image with and without transformers, at 224 and 448 pixels, and of each stage."""

from functools import partial

import torch
from torch import Tensor, nn

from experiments.benchmarks.steps import SameBatch, config, step_of
from experiments.benchmarks.timing import Row, Work, in_turn, ratio
from experiments.engine.build import build
from experiments.engine.compute import Compute, choose
from stn import sample
from stn.models.images import ImageCNN, ImageSTCNN

CASES = {
    "cub_cnn_224": "CNN, 224 px",
    "cub_2st_224": "2xST-CNN, 224 px",
    "cub_2st_448": "2xST-CNN, 448 px",
    "cub_4st_448": "4xST-CNN, 448 px",
}
BATCH = 8
CLASSES = 200
STAGES = ("localisation", "sampling", "backbones")


def network(experiment: str) -> tuple[ImageCNN | ImageSTCNN, Tensor, Compute]:
    """The experiment's network on untrained MobileNetV2, and a batch of random images."""
    cfg = config(f"experiment={experiment}", "backbone=mobilenet_v2", "backbone.weights=none")
    compute = choose("auto", "auto", None)
    torch.manual_seed(0)
    side = cfg.dataset.size
    model = build(cfg.model, in_shape=(3, side, side), num_classes=CLASSES).to(compute.device)
    model = model.to(memory_format=torch.channels_last).train()
    return model, torch.rand(BATCH, 3, side, side, device=compute.device), compute


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
    if isinstance(model, ImageCNN):
        if stage != "backbones":
            raise ValueError(f"A CNN has no {stage}.")
        backbones: list[nn.Module] = [model.backbone]
        crops = [images]
    else:
        backbones = list(model.backbones.children())
        with torch.no_grad():
            crops = list(model(images)[1]["warped"].float().unbind(1))
    crops = [crop.detach().requires_grad_(stage == "backbones") for crop in crops]
    theta = torch.zeros(BATCH, 2, device=images.device, requires_grad=True)

    def outputs() -> list[Tensor]:
        if stage == "backbones":
            return [backbone(crop) for backbone, crop in zip(backbones, crops, strict=True)]
        assert isinstance(model, ImageSTCNN)
        parallel = model.transformers
        if stage == "localisation":
            return [model.locate(images)]
        size = parallel.out_size or (images.shape[2], images.shape[3])
        return [sample(images, parallel.transform.grid(theta, size)) for _ in range(parallel.count)]

    def call() -> None:
        with compute.autocast():
            loss = torch.stack([out.sum() for out in outputs()]).sum()
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
        rows.append(
            {
                "network": CASES[experiment],
                "image_ms": step.ms,
                "times_the_CNN": ratio(step, steps["cub_cnn_224"]),
                "times_the_same_at_224_px": ratio(step, steps["cub_2st_224"])
                if experiment == "cub_2st_448"
                else None,
                **{f"{name}_percent": shares.get(name) for name in STAGES},
            }
        )
    return rows
