"""Config to objects: `_target_` and hydra's instantiate, for our own classes and torch's optimisers only."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.engine.identity import current_name

ALLOWED = ("stn.", "experiments.", "torch.optim.", "torchvision.models.")


class UserError(ValueError):
    """Something only the user can mend. The message is one sentence that says what is wrong and what to do."""


def build(node: Any, **kwargs: Any) -> Any:
    """The object that a config node describes.

    The constructor's signature is the schema. `name` beside a `_target_` is a label for tables, not an argument.
    kwargs: arguments known only at run time (they win over the node's).
    raises: UserError for a target outside `ALLOWED` anywhere in the node (a config that came with somebody's
    checkpoint must not run arbitrary code), for an unknown argument, or for a value the constructor refuses.
    """
    tree = (
        OmegaConf.to_container(node, resolve=True)
        if isinstance(node, DictConfig | ListConfig)
        else deepcopy(node)
    )
    for part in _targets(tree):
        part["_target_"] = current_name(str(part["_target_"]))
        if not part["_target_"].startswith(ALLOWED):
            raise UserError(
                f"_target_: {part['_target_']} is not allowed; targets start with {', '.join(ALLOWED)}."
            )
        part.pop("name", None)
    try:
        return instantiate(tree, **kwargs, _convert_="all")
    except Exception as error:
        cause = error.__cause__
        # What a constructor says of a bad value is the message; hydra's frame around it is noise.
        if isinstance(cause, FileNotFoundError):
            raise cause from None
        if isinstance(cause, ValueError):
            raise UserError(str(cause)) from cause
        if isinstance(cause, TypeError):
            raise UserError(f"{tree['_target_']}: {cause}.") from error
        raise


def _targets(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield tree
        for value in tree.values():
            yield from _targets(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _targets(value)
