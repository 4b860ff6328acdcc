"""Docstrings of the library: their examples run, they name every argument, and they name what is raised."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import textwrap
import warnings

import pytest
import torch
from torch import nn

import stn
from stn.models import backbones, beyond, colocalisation, images, mnist, volumes

MODULES = ["stn", *(module.name for module in pkgutil.walk_packages(stn.__path__, "stn."))]
NETWORKS = [
    mnist.FCN, mnist.CNN, mnist.STN, mnist.fcn, mnist.cnn, mnist.st_fcn, mnist.st_cnn, volumes.ProjectedCNN,
    volumes.cnn_3d, volumes.st_cnn_3d, images.ImageCNN, images.ImageSTCNN, colocalisation.Localiser,
    backbones.Backbone, beyond.SharedSTN, beyond.st_cnn_shared,
]  # fmt: skip


def public(name):
    """The functions and classes of a module's `__all__` that are defined there, and their public methods."""
    module = importlib.import_module(name)
    for label in getattr(module, "__all__", []):
        thing = getattr(module, label)
        if getattr(thing, "__module__", None) != name:
            continue
        yield f"{name}.{label}", thing
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                if inspect.isfunction(function) and not method.startswith("_") and method != "forward":
                    yield f"{name}.{label}.{method}", function


PUBLIC = dict(pair for name in MODULES for pair in public(name))


def section(thing, title):
    """The lines of one section of a docstring."""
    doc = inspect.cleandoc(thing.__doc__ or "")
    found = re.search(rf"^{title}:\n((?:    .*\n?|\n)*)", doc, re.M)
    return found[1] if found else ""


def entries(thing, title):
    return set(re.findall(r"^    (\w+): ", section(thing, title), re.M))


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        failed, _ = doctest.testmod(importlib.import_module(name), extraglobs={"torch": torch})
    assert failed == 0


@pytest.mark.parametrize(
    "thing", [*(getattr(stn, name) for name in stn.__all__), *NETWORKS], ids=lambda t: t.__name__
)
def test_there_is_an_example(thing):
    assert ">>> " in section(thing, "Examples")


def arguments(thing):
    if inspect.isclass(thing) and "__init__" not in vars(thing):
        return set()
    function = thing.__init__ if inspect.isclass(thing) else thing
    return {name for name in inspect.signature(function).parameters if name not in ("self", "args", "kwargs")}


OVERRIDES = (
    "identity",
    "map_points",
    "compose",
    "train",
    "extra_repr",
    "batch",
)  # of methods that are described in the base class


@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_is_named(name):
    thing = PUBLIC[name]
    if not thing.__doc__ and name.split(".")[-1] in OVERRIDES:
        return
    assert thing.__doc__, "has no docstring"
    if inspect.isclass(thing) and hasattr(thing, "__dataclass_fields__"):
        assert entries(thing, "Attributes") == set(thing.__dataclass_fields__)
    elif inspect.isclass(thing) and issubclass(thing, tuple):
        assert entries(thing, "Attributes") == set(thing._fields)
    elif not (inspect.isclass(thing) and issubclass(thing, Exception)):
        assert entries(thing, "Args") == arguments(thing)


def raised(thing):
    """The exceptions that a function, or the constructor and `forward` of a class, raises itself."""
    if hasattr(thing, "__dataclass_fields__"):
        return  # its constructor is generated
    if inspect.isclass(thing):
        bodies = [vars(thing)[name] for name in ("__init__",) if inspect.isfunction(vars(thing).get(name))]
    else:
        bodies = [thing]
    for body in bodies:
        tree = ast.parse(textwrap.dedent(inspect.getsource(body)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call | ast.Name):
                call = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                yield {"_missing": "DataNotFoundError"}.get(ast.unparse(call), ast.unparse(call))


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_raised_is_named(name):
    thing = PUBLIC[name]
    if thing.__doc__:
        assert set(raised(thing)) <= entries(thing, "Raises")


def test_the_checks_see_what_is_missing():
    def bad(a, b):
        """Does.

        Args:
            a: one.
        """
        raise ValueError

    assert entries(bad, "Args") == {"a"} != arguments(bad)
    assert set(raised(bad)) == {"ValueError"} and not entries(bad, "Raises")
    assert len(PUBLIC) > 90 and issubclass(PUBLIC["stn.transformer.SpatialTransformer"], nn.Module)
