"""Weights of published runs, for `stn.models.pretrained`: written in half precision, loaded, tested again, listed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from torch import nn

from experiments.engine.build import UserError, build, with_arguments
from experiments.engine.files import write_atomically
from experiments.engine.result import Result
from experiments.engine.run import load_run
from experiments.engine.task import Classification
from experiments.report import details
from stn.models import mnist
from stn.models.weights import (
    FOLDER,
    NETWORKS,
    TRANSFORMS,
    Card,
    load_weights,
    pretrained_names,
    save_weights,
    write_sums,
)

TOLERANCE = 0.02  # percentage points between both errors: two digits, which rounding may decide
OF_ENGINE = {"name", "_target_", "transform", "width", "param_budget"}  # keys that a card has elsewhere


def load_result(
    result: Result, arguments: Mapping[str, Any], weights: Path = FOLDER
) -> tuple[Any, nn.Module]:
    """The data and the network of a finished run: of a run directory, or of a published run.

    Args:
        result: in a run directory, or a file of results/runs/ whose network is among the published weights.
        arguments: what the stored configuration leaves out, as of `load_run`.
        weights: the folder of published weights.

    Returns:
        The data, and the network in evaluation mode.

    Raises:
        UserError: as `load_run`, or the network is not published.
    """
    if result.path.name == "result.json":
        data, model, _ = load_run(result.path.parent, arguments)
        return data, model
    run = f"{result.experiment}/{result.path.stem}"
    for name in pretrained_names(weights):
        if name.startswith(f"{result.experiment}/"):
            card, model = load_weights(weights / f"{name}.safetensors")
            if card.run == run:
                cfg = OmegaConf.create(with_arguments(result.config, arguments))
                return build(cfg.dataset, seed=cfg.seed, device="cpu"), model
    raise UserError(
        f"The network of {run} is not among the published weights: train it again, and give its run directory."
    )


def publish_weights(
    runs: Sequence[Path], published: Path, weights: Path, arguments: Mapping[str, Any]
) -> list[str]:
    """Writes the networks of published runs into a folder, with its SHA256SUMS and README.md.

    Args:
        runs: run directories.
        published: results/runs.
        weights: the folder.
        arguments: what the stored configurations leave out, as of `load_run`.

    Returns:
        A line for each run: its error and that of the stored network.

    Raises:
        UserError: a run is not published or is no network of distorted MNIST, the folder has the network of another
            seed, or the stored network has another error.
    """
    lines = [_publish(run, published, weights, arguments) for run in runs]
    write_sums(weights)
    cards = {name: load_weights(weights / f"{name}.safetensors")[0] for name in pretrained_names(weights)}
    write_atomically(weights / "README.md", lambda path: path.write_text(page(cards)))
    return lines


def _publish(run: Path, published: Path, weights: Path, arguments: Mapping[str, Any]) -> str:
    data, model, config = load_run(run, arguments)
    result = Result.read(run / "result.json")
    path = published / result.experiment / f"{run.parent.name}-{run.name}.json"
    if not path.exists() or Result.read(path) != result:
        raise UserError(f"{run} is not published as {path}: weights are those of published runs.")
    name = config["model"]["_target_"].removeprefix(f"{mnist.__name__}.")
    transform = config["model"].get("transform") or {"_target_": ""}
    kind = transform["_target_"].rpartition(".")[2]
    if name not in NETWORKS or kind not in {"", *TRANSFORMS}:
        raise UserError(f"{run} has no network of {', '.join(NETWORKS)}.")
    card = Card(
        network=name,
        in_shape=data.in_shape,
        arguments={key: value for key, value in config["model"].items() if key not in OF_ENGINE}
        | {"num_classes": data.num_classes, "width": model.width},
        transform=kind or None,
        transform_arguments={k: v for k, v in transform.items() if k not in ("name", "_target_")},
        run=f"{result.experiment}/{path.stem}",
        published_error=result.metrics["test_error"],
        test_error=float("nan"),
        test_fingerprint=result.test_fingerprint,
    )
    file = weights / result.experiment / f"{run.parent.name.removesuffix('-fast')}.safetensors"
    if file.exists() and (there := load_weights(file)[0].run) != card.run:
        raise UserError(
            f"{file} is the network of {there}, and stays: a network is not exchanged for one of another seed, so that "
            "none is chosen by its error."
        )
    trial = file.with_suffix(".trial")
    try:
        save_weights(trial, model, card)
        metrics, predictions = Classification().evaluate(load_weights(trial)[1], data.test.batches(500))
    finally:
        trial.unlink(missing_ok=True)
    if not abs(metrics["error"] - card.published_error) <= TOLERANCE:
        raise UserError(
            f"{run}: in half precision the error is {metrics['error']:.2f} %, and {card.published_error:.2f} % is "
            "published. Nothing is written."
        )
    before = details.predictions(path)
    others = "" if before is None else f", {int(np.sum(before != predictions.numpy()))} predictions differ"
    save_weights(file, model, replace(card, test_error=metrics["error"]))
    return f"{file}: {metrics['error']:.2f} %, published {card.published_error:.2f} %{others}."


def page(cards: Mapping[str, Card]) -> str:
    """The README.md of the weights.

    Args:
        cards: name -> card.
    """
    rows = [
        f"| `{name}` | {' x '.join(map(str, card.in_shape))} | {card.test_error:.2f} | {card.published_error:.2f} "
        f"| [{card.run}](../results/runs/{card.run}.json) |"
        for name, card in cards.items()
    ]
    return "\n".join(
        [
            "# Trained networks",
            "",
            "Networks of distorted MNIST for `stn.models.pretrained(name)`, each from one published run, of the first",
            "seed whose network was kept, whatever its error. Weights are in half precision. Images are",
            "(batch, C, H, W) in [0, 1], white digits on black. Both errors are on the same fixed test set, in %: that",
            "of the network as the file gives it, computed in float32, and that of the run. Generated by",
            "`scripts/publish_weights.py`; `sha256sum -c SHA256SUMS` checks the files.",
            "",
            "| name | C x H x W | error | error of the run | run |",
            "|---|---|--:|--:|---|",
            *rows,
            "",
        ]
    )
