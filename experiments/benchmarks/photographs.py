"""Suite birds: what an image costs with and without transformers, at 224 and 448 pixels, and which stage of it."""

import torch
from torch import Tensor

from experiments.benchmarks.ours import config, optimizer_config
from experiments.benchmarks.rows import Table, milliseconds
from experiments.benchmarks.timing import Side, Work, in_turn, ratio
from experiments.engine.build import build
from experiments.engine.compute import Compute, choose
from experiments.engine.optim import make_optimizer
from experiments.engine.step import make_step
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
    """A training step without its data, theta's gradient the sampler's own."""
    model, images, compute = network(experiment)
    cfg = config(f"experiment={experiment}", "trainer=fast")
    labels = torch.randint(CLASSES, (BATCH,), device=images.device)

    class Stream:
        def next_batch(self) -> tuple[Tensor, Tensor]:
            return images, labels

    optimizer = make_optimizer(model, optimizer_config(cfg))
    task = build(config(f"experiment={experiment}").task)
    return make_step(model, optimizer, Stream(), task, compute.autocast, graph=False), BATCH


def bird_stage(experiment: str, stage: str) -> Work:
    """One stage of the network, forward and backward.   stage: one of STAGES."""
    model, images, compute = network(experiment)
    if isinstance(model, ImageCNN):
        if stage != "backbones":
            raise ValueError(f"A CNN has no {stage}.")
        backbones, crops = [model.backbone], [images]
    else:
        parallel = model.transformers
        backbones = list(model.backbones)
        with torch.no_grad():
            crops = list(model(images)[1]["warped"].float().unbind(1))
    crops = [crop.detach().requires_grad_(stage == "backbones") for crop in crops]
    theta = torch.zeros(BATCH, 2, device=images.device, requires_grad=True)

    def call() -> None:
        with compute.autocast():
            if stage == "localisation":
                out = model.locate(images).sum()
            elif stage == "sampling":
                size = parallel.out_size or tuple(images.shape[2:])
                out = torch.stack(
                    [
                        sample(images, parallel.transform.grid(theta, size)).sum()
                        for _ in range(parallel.count)
                    ]
                ).sum()
            else:
                out = torch.stack([b(c).sum() for b, c in zip(backbones, crops, strict=True)]).sum()
        model.zero_grad(set_to_none=True)
        out.backward()

    return call, BATCH


def birds(rounds: int) -> Table:
    table = Table(
        f"birds: a training step for each image, batches of {BATCH}, without data",
        [
            "MobileNetV2 in every place of a backbone. Stages are measured by themselves, forward and backward, and "
            "given as shares of the step; what is missing to 100 is the rest of it, the optimiser most of all.",
            "The paper: after the transformers 448 pixels cost no more than 224, since the crops are the same.",
        ],
    )
    steps = in_turn(
        [Side(label, bird_step, {"experiment": experiment}) for experiment, label in CASES.items()],
        rounds=rounds,
        at_least=0.5,
    )
    for experiment, step in zip(CASES, steps, strict=True):
        names = STAGES[2:] if experiment == "cub_cnn_224" else STAGES
        sides = [Side(name, bird_stage, {"experiment": experiment, "stage": name}) for name in names]
        stages = {
            t.label: t
            for t in in_turn(
                [Side("step", bird_step, {"experiment": experiment}), *sides],
                rounds=max(rounds // 2, 3),
                at_least=0.5,
            )
        }
        whole = stages.pop("step")
        table.rows.append(
            {
                "network": CASES[experiment],
                "ms an image": milliseconds(step),
                "times the CNN (quartiles)": str(ratio(step, steps[0])),
                **{
                    f"{name}, %": f"{100 * ratio(stages[name], whole).median:.0f}" if name in stages else ""
                    for name in STAGES
                },
            }
        )
    two, large = steps[1], steps[2]
    table.notes.append(f"2xST-CNN at 448 over the same at 224 (quartiles): {ratio(large, two)}.")
    return table
