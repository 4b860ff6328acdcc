"""Configuration to objects: Hydra's `_target_` and instantiate, limited to our own classes and torch's."""

import inspect
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.engine.identity import current_name

ALLOWED = ("stn.", "experiments.", "torch.optim.", "torchvision.models.")


class UserError(ValueError):
    """An error that only the user can mend. The message is one sentence: what is wrong and what to do."""


def build(node: Any, **kwargs: Any) -> Any:
    """Builds the object that a configuration node describes.

    The constructor's signature is the schema. `name` beside a `_target_` is a label for tables, not an argument.

    Args:
        node: a mapping with a `_target_`, of OmegaConf or plain; it is not changed.
        **kwargs: arguments known only at run time. They win over the node's.

    Raises:
        UserError: a `_target_` anywhere in the node is outside `ALLOWED`, since a configuration that came with
            somebody's checkpoint must not run arbitrary code; an argument is unknown; the constructor refuses a value.
        FileNotFoundError: the constructor does not find its files.
    """
    config = isinstance(node, DictConfig | ListConfig)
    tree: Any = OmegaConf.to_container(node, resolve=True) if config else deepcopy(node)
    for part in _targets(tree):
        part.pop("name", None)
    try:
        return instantiate(tree, **kwargs, _convert_="all")
    except Exception as error:
        cause = error.__cause__
        # The constructor's own message; Hydra's wrapper around it does not help the user.
        if isinstance(cause, FileNotFoundError):
            raise cause from None
        if isinstance(cause, ValueError):
            raise UserError(str(cause)) from cause
        if isinstance(cause, TypeError):
            raise UserError(f"{tree['_target_']}: {cause}.") from error
        raise


def with_arguments(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Completes a stored configuration with what it leaves out, such as where data sets are.

    Args:
        config: plain dictionaries and lists.
        arguments: name -> value, such as {"data_dir": "data"}; set wherever a `_target_` takes an argument of the name.

    Returns:
        A copy.

    Raises:
        UserError: a `_target_` is outside `ALLOWED`.
    """
    complete = deepcopy(dict(config))
    for part in _targets(complete):
        accepted = inspect.signature(get_object(part["_target_"])).parameters
        part.update({name: value for name, value in arguments.items() if name in accepted})
    return complete


def _targets(tree: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a `_target_`, at any depth, the target renamed to today's name and checked."""
    if isinstance(tree, dict):
        if "_target_" in tree:
            tree["_target_"] = target = current_name(str(tree["_target_"]))
            if not target.startswith(ALLOWED):
                raise UserError(
                    f"_target_: {target} is not allowed; targets start with {', '.join(ALLOWED)}."
                )
            yield tree
        for value in tree.values():
            yield from _targets(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _targets(value)
