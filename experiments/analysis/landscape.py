"""The loss over theta: whether the sampler's gradient agrees with the slopes over larger steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.engine.build import UserError
from experiments.engine.run import load_run
from experiments.report import markdown_table
from experiments.sections import SECTIONS
from experiments.sections.birds import HEAD, region_centres
from stn import ParallelTransformers, SpatialTransformer, Translation

STEPS = (0.003, 0.01, 0.03, 0.1, 0.2, 0.4)  # in theta's units; for a translation the image is 2 across


@contextmanager
def moved(module: Any, by: Tensor) -> Iterator[None]:
    """Adds `by`, (B, P) or (B, K * P), to a transformer's theta inside the `with` block."""
    networks = module.networks if isinstance(module, ParallelTransformers) else [module]
    sizes = [getattr(network, "count", 1) * module.transform.num_params for network in networks]
    with ExitStack() as stack:
        for network, part in zip(networks, by.split(sizes, 1), strict=True):
            hook = network.head.register_forward_hook(lambda _module, _inputs, theta, part=part: theta + part)
            stack.callback(hook.remove)
        yield


def landscape(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    steps: Sequence[float] = STEPS,
    spread: float = 0.0,
    seed: int = 0,
    towards: Callable[[int, Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """The slope of the loss in theta over steps of several sizes, image by image.

    Args:
        model: a network with one `SpatialTransformer` or `ParallelTransformers`, theta of D = (K *) num_params numbers.
        batches: images (B, C, H, W) and labels (B,).
        steps: h of the central differences, in theta's units.
        spread: standard deviation of a Gaussian offset of theta: at the end of training there is little slope.
        seed: of the offsets.
        towards: (index of the batch, theta (B, D)) -> (B, D), directions to compare with, such as to a bird's head,
            two numbers a window; None: none.

    Returns:
        `images`: how many; `spread`; `gradient`: of the sampler's gradient, downhill, the median `norm` over images
        and, with `towards`, `cosine_to_target`; `steps`: for each h the same of the downhill slope, and `cosine`, the
        mean cosine between slope and gradient.

    Raises:
        UserError: for a network without a transformer, or with several one after the other.
    """
    transformers = [m for m in model.modules() if isinstance(m, SpatialTransformer | ParallelTransformers)]
    if len(transformers) != 1:
        raise UserError(
            f"The landscape is of one transformer (or several in parallel), and this network has {len(transformers)}."
        )
    module, model = transformers[0], model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    gradients: list[Tensor] = []
    slopes: dict[float, list[Tensor]] = {step: [] for step in steps}
    targets: list[Tensor] = []

    for index, (images, labels) in enumerate(batches):

        def loss(by: Tensor, images: Tensor = images, labels: Tensor = labels) -> Tensor:
            with moved(module, by):
                return F.cross_entropy(model(images)[0].float(), labels, reduction="none")

        with torch.no_grad():
            theta = model(images)[1]["theta"].flatten(1)
        offset = spread * torch.randn(theta.shape, generator=generator)
        here = offset.clone().requires_grad_(True)
        gradients.append(-torch.autograd.grad(loss(here).sum(), here)[0])
        if towards:
            targets.append(towards(index, theta + offset))
        with torch.no_grad():
            for step in steps:
                each = [
                    (loss(offset - step * axis) - loss(offset + step * axis)) / (2 * step)
                    for axis in torch.eye(theta.shape[1])
                ]
                slopes[step].append(torch.stack(each, 1))

    gradient, target = torch.cat(gradients), torch.cat(targets) if towards else None

    def summary(downhill: Tensor) -> dict[str, float]:
        means = {"norm": downhill.norm(dim=1).median().item()}
        if target is not None:
            windows = (downhill.unflatten(1, (-1, 2)), target.unflatten(1, (-1, 2)))
            means["cosine_to_target"] = F.cosine_similarity(*windows, dim=2).mean().item()
        return means

    return {
        "images": len(gradient),
        "spread": spread,
        "gradient": summary(gradient),
        "steps": [
            {
                "step": step,
                **summary(downhill),
                "cosine": F.cosine_similarity(downhill, gradient, dim=1).mean().item(),
            }
            for step, downhill in ((step, torch.cat(each)) for step, each in slopes.items())
        ],
    }


def landscape_of_run(
    folder: Path, circumstances: Mapping[str, Any], images: int = 200, spread: float = 0.2
) -> dict[str, Any]:
    """The landscape of a trained network on test images, one of every so many, so that all classes are there.

    For birds and translated windows, the target is the middle of each bird's head.

    Args:
        folder: the run directory.
        circumstances: where data are: `data_dir`, `cache_dir`.
        images: how many.
        spread: as of `landscape`.

    Returns:
        What `landscape` returns, with `experiment`, `seed` and `run`.

    Raises:
        UserError: for a folder without a trained network, and a network without transformers.
    """
    if images < 1:
        raise UserError(f"--images {images} is not valid: it is a whole number from 1.")
    data, model, config = load_run(folder, dict(circumstances))
    if data.num_classes is None:
        raise UserError(
            f"{folder} is no classification, and the landscape is that of a classification's loss."
        )
    parallel = getattr(model, "transformers", None)
    kept: list[tuple[Tensor, ...]] = []
    every = max(len(data.test.labels) // images, 1)
    for first, batch in enumerate(data.test.batches(every)):
        if first < images:
            kept.append(tuple(part[:1] for part in batch))
    joined = [torch.cat(parts) for parts in zip(*kept, strict=True)]
    parts = [piece.split(20) for piece in joined]
    towards = None
    if len(joined) == 3 and parallel and isinstance(parallel.transform, Translation):

        def towards(batch: int, theta: Tensor) -> Tensor:
            head, _ = region_centres(parts[2][batch], HEAD)
            return (head[:, None] - theta.unflatten(1, (-1, 2))).flatten(1)

    batches = list(zip(parts[0], parts[1], strict=True))
    name = {key: config[key] for key in ("experiment", "seed")} | {"run": folder.parent.name}
    return {**name, **landscape(model, batches, spread=spread, towards=towards)}


def markdown(landscapes: Sequence[Mapping[str, Any]]) -> str:
    """A table a run: the slope over steps of several sizes."""
    parts = []
    for one in landscapes:
        heads = ["step", "median slope", "cosine to the sampler's gradient"]
        rows = []
        for row in [{"step": None, "cosine": 1.0, **one["gradient"]}, *one["steps"]]:
            step = "the sampler's gradient" if row["step"] is None else f"{row['step']:g}"
            rows.append([step, f"{row['norm']:.2f}", f"{row['cosine']:.2f}"])
            if "cosine_to_target" in row:
                rows[-1].append(f"{row['cosine_to_target']:.2f}")
        if "cosine_to_target" in one["gradient"]:
            heads.append("to the head")
        title = f"**{one['experiment']}**, {one['run']}, seed {one['seed']}, {one['images']} test images"
        parts.append(f"{title}\n\n{markdown_table(heads, rows, 'c' * len(heads))}")
    return "\n".join(parts)


def picture(landscapes: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draws the cosine between slope and sampler's gradient over the size of the step, a line a run.

    Where there is a target, a second graph shows how far slope and gradient point to it.

    Args:
        landscapes: what `landscape_of_run` returns, one a run.
        path: the picture, which is written.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure  # slow to import

    from experiments.report.pictures import head, line, save

    aimed = any("cosine_to_target" in one["gradient"] for one in landscapes)
    figure = Figure(figsize=(10 if aimed else 5, 4.2), layout="constrained")
    axes = figure.subplots(1, 1 + aimed, squeeze=False)[0]
    handles: list[Any] = []
    for k, one in enumerate(landscapes):
        look, name = line(k), f"{_data(one['experiment'])}, seed {one['seed']}, {one['images']} test images"
        steps = [row["step"] for row in one["steps"]]
        handles += axes[0].plot(
            steps, [row["cosine"] for row in one["steps"]], marker="o", label=name, **look
        )
        if "cosine_to_target" in one["gradient"]:
            shares = [row["cosine_to_target"] for row in one["steps"]]
            axes[1].plot(steps, shares, marker="o", label="slope over the step", **look)
            own = one["gradient"]["cosine_to_target"]
            axes[1].axhline(own, color=look["color"], linestyle=":", label="the sampler's gradient")
            axes[1].legend(frameon=False, fontsize=8)
    for one_axes, what in zip(
        axes, ("the sampler's gradient", "the direction of the bird's head"), strict=False
    ):
        one_axes.set(xscale="log", xlabel="step in theta (the image spans -1 to 1)", ylim=(-0.1, 1.05))
        one_axes.set_ylabel(f"cosine to {what}")
        one_axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    title = (
        "The larger the step of theta, the more the slope of the loss may differ from the sampler's gradient"
    )
    spreads = " and ".join(sorted({f"{one['spread']:g}" for one in landscapes}))
    note = f"Cosine 1: the same direction; 0: unrelated. The windows were first moved at random by {spreads}."
    head(figure, title, note=note, handles=handles)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, path, dpi=110)


def _data(experiment: str) -> str:
    """What the images of an experiment are called, or its network."""
    for section in SECTIONS.values():
        for kind in (section.words.data, section.words.networks):
            if experiment in kind:
                return (
                    kind[experiment] if kind is section.words.data else f"{section.name}: {kind[experiment]}"
                )
    return experiment
