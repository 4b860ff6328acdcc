"""What makes two runs the same run: the names and values in a configuration that decide its result.

A class counts by its name, never by the module that it lives in. Code can be moved, and a class renamed with one line
in `MOVED`, without turning a published result into one of another configuration.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Key -> why it decides no result. "*.key" is the key at any depth. The identity has none of them.
NOT_IDENTITY: dict[str, str] = {
    "device": "where a run is computed",
    "threads": "how a run is computed",
    "data_dir": "where data sets are",
    "output_dir": "where run directories are",
    "wandb": "who is told of a run",
    "section": "which pictures and tables a run appears in",
    "figures": "whether pictures are drawn",
    "table": "earlier runs: the table that a run appears in",
    "trainer.log_every": "how often numbers are logged",
    "trainer.checkpoint_every": "how often the state is saved",
    "trainer.snapshot_every": "how often weights are kept for pictures",
    "trainer.hint": "a sentence for the terminal",
    "trainer.channels_last": "earlier runs: a memory layout",
    "optimizer.fused": "how the update is computed",
    "*.data_dir": "where data sets are",
    "*.cache_dir": "where decoded images are",
    "*.circumstances": "earlier runs: the circumstances of a run that this one needs",
}

# Keys that decide, and are not stored: places on one machine. What was there stands under another key.
NOT_STORED: dict[str, str] = {
    "init_from": "the weights there stand in init_weights",
}

# Dotted key -> through which other keys, which the identity has, its value reaches the result.
SOURCES: dict[str, str] = {
    "transform": "stands in the model, where the model has a transformer",
    "backbone": "stands in the model, where the model has a backbone",
    "requires": "names keys under which the overrides of a required run stand",
    "schedules": "stands in the trainer, the optimiser, the backbone and the task",
    "networks": "stands in the model, where the model has what it is about",
    "pool": "earlier runs: stands in the model",
    "fast": "earlier runs: stands in the trainer and the optimiser",
    "smoke": "earlier runs: stands in the trainer and the optimiser",
    "root": "earlier runs: stands in the data set",
    "dataset.root": "stands in the content of the folder",
}

# Dotted key -> the value that equals its absence: keys that were added after results had been published.
ADDED: dict[str, Any] = {
    "init_weights": None,
    "init_without": None,
    "optimizer.pretrained_lr": None,
    "task.smoothing": None,
    "task.label_smoothing": 0.0,
    "dataset.distort.corners": "digit",
    "dataset.distort.reach": 1.0,
    "dataset.distort.middle": 0.0,
}

# Dotted name in a stored configuration -> the name today. The longest entry that fits decides.
MOVED: dict[str, str] = {
    "stn.datasets.mnist.DistortedDigits": "stn.datasets.distorted.DistortedDigits",
    "stn.datasets.mnist.load_digits": "stn.datasets.digits.load_digits",
    "experiments.birds.Birdwatching": "experiments.sections.birds.BirdClassification",
    "experiments.sections.birds.Birdwatching": "experiments.sections.birds.BirdClassification",
    "experiments.birds": "experiments.sections.birds",
    "experiments.colocalisation": "experiments.sections.colocalisation",
    "experiments.mnist_addition": "experiments.sections.mnist_addition",
}


def current_name(target: str) -> str:
    """Where the class or function of a stored `_target_` is today.

    Args:
        target: a dotted name such as `experiments.sections.birds.BirdClassification`.

    Returns:
        The name by `MOVED`, or `target` itself.
    """
    for old in sorted(MOVED, key=len, reverse=True):
        if target == old or target.startswith(f"{old}."):
            return MOVED[old] + target[len(old) :]
    return target


def decides(key: str) -> bool:
    """Whether the value under a dotted key can decide a result: whether `NOT_IDENTITY` leaves it in.

    Args:
        key: such as `trainer.log_every`; a key inside an excluded group is excluded too.
    """
    parts = key.split(".")
    prefixes = {".".join(parts[: n + 1]) for n in range(len(parts))}
    inner = {f"*.{part}" for part in parts}
    return not (prefixes | inner) & NOT_IDENTITY.keys()


def stored(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as config.json and result.json keep it: resolved, without what decides no result.

    `_target_` keeps the dotted name, so that the objects can be built again.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
    return _kept({key: value for key, value in plain.items() if key not in NOT_STORED})


def identity(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides the result; equal for two runs exactly when they are the same run.

    Args:
        config: a composed configuration, or one that any version of this code has stored.

    Returns:
        Plain dictionaries, lists, numbers, strings; of a `_target_` only the name of the class or function.
    """
    named: dict[str, Any] = _named(stored(config))
    return named


def config_hash(config: DictConfig | Mapping[str, Any]) -> str:
    """16 hex digits of the sha256 of the identity as sorted JSON."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:16]


def transform_name(config: DictConfig | Mapping[str, Any]) -> str | None:
    """The transform's name in the tables; None for a network without a transformer."""
    transform = config["model"].get("transform")
    return None if transform is None else transform["name"]


def differences(theirs: Any, ours: Any) -> list[str]:
    """The keys in which two identities differ, each as "key (theirs -> ours)"."""
    left, right = dict(leaves(theirs)), dict(leaves(ours))
    keys = sorted({*left, *right})
    return [f"{key} ({left.get(key)} -> {right.get(key)})" for key in keys if left.get(key) != right.get(key)]


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested dictionaries with its dotted key, sorted; an empty dictionary is a value."""
    if isinstance(node, Mapping) and node:
        for key in sorted(node):
            yield from leaves(node[key], f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, node


def _kept(node: Any, prefix: str = "") -> Any:
    """The node without the keys that `NOT_IDENTITY` names."""
    if isinstance(node, Mapping):
        keys = {key: f"{prefix}.{key}" if prefix else str(key) for key in node}
        return {key: _kept(node[key], path) for key, path in keys.items() if decides(path)}
    return [_kept(value, f"{prefix}.{i}") for i, value in enumerate(node)] if isinstance(node, list) else node


def _named(node: Any, prefix: str = "") -> Any:
    """The node with names of classes in place of dotted paths, without `SOURCES` and values that equal absence."""
    if isinstance(node, Mapping):
        out = {}
        for key, value in node.items():
            path = f"{prefix}.{key}" if prefix else str(key)
            if path in SOURCES or (path in ADDED and value == ADDED[path]):
                continue
            is_target = key == "_target_" and isinstance(value, str)
            out[key] = current_name(value).rsplit(".", 1)[-1] if is_target else _named(value, path)
        return out
    if isinstance(node, list):
        return [_named(value, prefix) for value in node]
    return node
