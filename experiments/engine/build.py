"""Configuration to objects: Hydra's `_target_` and instantiate, limited to what this project offers as a target."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from importlib import import_module
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.engine.identity import current_name, stored

OURS = ("stn", "experiments.engine", "experiments.sections")  # and every module inside
TORCHS = ("torch.optim", "torch.optim.lr_scheduler")


class Stopped(BaseException):
    """The training ended before its last step, because it was asked to, and has left a checkpoint.

    It is no failure: like KeyboardInterrupt, it is not caught with the exceptions.
    """


class UserError(ValueError):
    """An error that only the user can mend. The message is one sentence: what is wrong and what to do."""


def build(node: Any, **kwargs: Any) -> Any:
    """Builds the object that a configuration node describes.

    The constructor's signature is the schema. `name` beside a `_target_` is a label for tables, not an argument.

    Args:
        node: a mapping with a `_target_`, of OmegaConf or plain; it is not changed.
        **kwargs: arguments known only at run time. They win over the node's.

    Raises:
        UserError: a `_target_` anywhere in the node is none of `offered`, since a configuration that came with
            somebody's checkpoint must not run arbitrary code; an argument is unknown; the constructor refuses a value.
        FileNotFoundError: the constructor does not find its files.
    """
    config = isinstance(node, DictConfig | ListConfig)
    tree: Any = OmegaConf.to_container(node, resolve=True) if config else deepcopy(node)
    for part, _ in _targets(tree):
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
    """Completes a stored configuration, which may be somebody else's, with what it leaves out.

    Folders of data and caches are never the configuration's own, and nothing is downloaded unless `arguments` says so.

    Args:
        config: plain dictionaries and lists.
        arguments: name -> value, such as {"data_dir": "data"} or {"download": True}; set wherever a `_target_` takes an
            argument of the name.

    Returns:
        A copy.

    Raises:
        UserError: a `_target_` is none of `offered`, or a value is an interpolation, which could read the environment.
    """
    complete = deepcopy(stored(config))
    for part, found in _targets(complete):
        accepted = inspect.signature(found).parameters
        given = {"download": False, **arguments}
        part.update({name: value for name, value in given.items() if name in accepted})
    return complete


def offered(target: str) -> Callable[..., Any]:
    """The class or function that a `_target_` names, if this project offers it as one.

    A target is public, is defined in the module that the name says or in one inside of it (never only imported there),
    and makes a part of a run: data, digits, a network, a tensor, a transform, a task, an optimiser or a schedule. A
    class is such a part; a function says so by the annotation of what it returns, or of the first of several. What
    reads or writes files for other ends, or starts processes, makes none of these.

    Args:
        target: dotted name, a module's and one more.

    Raises:
        UserError: it is not offered, or does not exist.
    """
    module, _, name = target.rpartition(".")
    inside = module in TORCHS or any(f"{module}.".startswith(f"{package}.") for package in OURS)
    if not inside or not all(part.isidentifier() and part[0] != "_" for part in target.split(".")):
        raise _refusal(target)
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"_target_: {target} is not allowed: there is no such class or function.") from error
    defined = inspect.isclass(found) or inspect.isfunction(found)
    if not defined or found.__qualname__ != name or not f"{found.__module__}.".startswith(f"{module}."):
        raise _refusal(target)
    if not _makes_a_part(found) or get_object(target) is not found:
        raise _refusal(target)
    made: Callable[..., Any] = found
    return made


def _refusal(target: object) -> UserError:
    return UserError(
        f"_target_: {target} is not allowed: a target is a public class or function defined in {', '.join(OURS)} or "
        f"{' or '.join(TORCHS)} that makes data, a network, a transform, a task, an optimiser or a schedule."
    )


def _makes_a_part(found: Any) -> bool:
    from torch import Tensor, nn  # slow to import, and train.py --help needs none of these
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from experiments.engine.interfaces import Task
    from stn.datasets.digits import Digits

    made = found
    if inspect.isfunction(found):
        try:
            made = typing.get_type_hints(found).get("return")
        except NameError:  # a name that only the type checker knows
            return False
        if typing.get_origin(made) in (tuple, types.UnionType):  # several values, or more of them on request
            made = typing.get_args(made)[0]
    parts = (nn.Module, Tensor, Digits, Task, Optimizer, LRScheduler)
    return inspect.isclass(made) and (issubclass(made, parts) or hasattr(made, "train_stream"))


def _targets(tree: Any) -> Iterator[tuple[dict[str, Any], Callable[..., Any]]]:
    """Every mapping with a `_target_`, at any depth, and what it names; the target renamed to today's name and checked.

    No text may be an interpolation: Hydra would resolve it after this check, to a target or to a secret.
    """
    if isinstance(tree, dict):
        if "_target_" in tree:
            if not isinstance(tree["_target_"], str):
                raise _refusal(tree["_target_"])
            tree["_target_"] = target = current_name(tree["_target_"])
            yield tree, offered(target)
        for value in tree.values():
            yield from _targets(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _targets(value)
    elif isinstance(tree, str) and "${" in tree:
        raise UserError(
            f"{tree} is not allowed: a configuration that is built has values in place of ${{...}}."
        )
