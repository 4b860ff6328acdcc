"""Who may import whom, and what is called in one place only: read off the syntax tree of every .py file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_OURS = {"build", "data", "dist", "outputs", "wandb"}  # and whatever starts with a dot
CODE = ("stn/", "experiments/", "hydra_plugins/", "scripts/", "train.py")  # all but the tests
# Layers of experiments/: each imports itself and those before it.
LAYERS = ("engine", "report", "sections", "sweeps", "analysis", "benchmarks")
SHARED_BY_SECTIONS = {"figures"}  # modules of sections/ that are no section
GRID_SAMPLE = (
    "stn/sampler.py",
    "experiments/benchmarks/baselines.py",
)  # the second is what others write, to compare with
SCRIPT_LINES = 60
UNPICKLERS = ("pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve")

# module or package -> what of stn it may import besides itself
STN_MAY_IMPORT: dict[str, set[str]] = {
    "stn.eager": set(),
    "stn.transforms": {"stn.eager"},
    "stn.sampler": {"stn.eager"},
    "stn.files": set(),
    "stn.seeds": set(),
    "stn.convolution": {"stn.eager"},
    "stn.localisation": {"stn.transforms", "stn.sampler", "stn.transformer"},
    "stn.transformer": {"stn.transforms", "stn.sampler", "stn.localisation"},
    "stn.models": {
        "stn.convolution",
        "stn.files",
        "stn.transforms",
        "stn.sampler",
        "stn.localisation",
        "stn.transformer",
    },
    "stn.datasets": {"stn.files", "stn.seeds", "stn.transforms", "stn.sampler"},
}
STN_NEVER_IMPORTS = {"hydra", "omegaconf", "wandb", "matplotlib", "experiments"}


def python_files() -> list[str]:
    paths = (path.relative_to(ROOT) for path in ROOT.glob("*.py"))
    folders = (
        p for p in ROOT.iterdir() if p.is_dir() and p.name not in NOT_OURS and not p.name.startswith(".")
    )
    return sorted(
        map(Path.as_posix, [*paths, *(f.relative_to(ROOT) for d in folders for f in d.rglob("*.py"))])
    )


def module_name(path: str) -> str:
    """stn/models/mnist.py -> stn.models.mnist, stn/__init__.py -> stn."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def within(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of the packages or inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imports(path: str, tree: ast.AST) -> Iterator[str]:
    """Every imported dotted name, down to the name in `from module import name`; relative ones made absolute."""
    package = module_name(path).split(".")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(part.value) for part in node.args[:1] if isinstance(part, ast.Constant))


def wandb_in_one_file(path: str, tree: ast.AST, names: list[str]) -> Iterator[str]:
    if path.startswith(CODE) and path != "experiments/engine/tracking.py":
        yield from (f"imports {name}" for name in names if within(name, "wandb"))


def grid_sample_in_one_file(path: str, tree: ast.AST, names: list[str]) -> Iterator[str]:
    if not path.startswith(CODE) or path in GRID_SAMPLE:
        return
    for node in ast.walk(tree):
        named = {getattr(node, key, None) for key in ("id", "attr", "name")}  # Name, Attribute, import alias
        if any(isinstance(name, str) and name.startswith("grid_sample") for name in named):
            yield "uses grid_sample; call stn.sampler.sample"


def stn_stands_alone(path: str, tree: ast.AST, names: list[str]) -> Iterator[str]:
    if path.startswith("stn/"):
        yield from (f"imports {name}" for name in names if within(name, *STN_NEVER_IMPORTS))


def stn_in_layers(path: str, tree: ast.AST, names: list[str]) -> Iterator[str]:
    for package, allowed in STN_MAY_IMPORT.items():
        if within(module_name(path), package):
            ours = (name for name in names if within(name, "stn"))
            yield from (f"imports {name}" for name in ours if not within(name, package, *allowed))


def experiments_in_layers(path: str, tree: ast.AST, names: list[str]) -> Iterator[str]:
    here = [*module_name(path).split("."), ""]
    if here[0] == "experiments" and here[1] not in LAYERS and path != "experiments/__init__.py":
        yield f"is in no layer: {', '.join(LAYERS)}"
    if here[0] == "hydra_plugins" or here[1] not in LAYERS:
        return
    allowed = {f"experiments.{layer}" for layer in LAYERS[: LAYERS.index(here[1]) + 1]} | {"stn"}
    for name in names:
        if within(name, "experiments", "scripts", "hydra_plugins", "train") and not within(name, *allowed):
            yield f"imports {name}"


def sections_stand_apart(path: str, tree: ast.AST, names: list[str]) -> Iterator[str]:
    here = module_name(path)
    if (
        not within(here, "experiments.sections") or here == "experiments.sections"
    ):  # whose __init__ lists them
        return
    mine = ".".join(here.split(".")[:3])
    allowed = [mine, *(f"experiments.sections.{name}" for name in SHARED_BY_SECTIONS)]
    for name in names:
        if within(name, "experiments.sections") and not within(name, *allowed):
            yield f"imports {name}"


def torch_load_reads_weights_only(path: str, tree: ast.AST, names: list[str]) -> Iterator[str]:
    torches, loads = {"torch"}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            torches |= {alias.asname or alias.name for alias in node.names if alias.name == "torch"}
        elif isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.serialization"):
            loads |= {alias.asname or alias.name for alias in node.names if alias.name == "load"}
            torches |= {alias.asname or alias.name for alias in node.names if alias.name == "serialization"}
    heads = torches | {f"{name}.serialization" for name in torches}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            head, _, tail = ast.unparse(node.func).rpartition(".")
            if (tail == "load" and head in heads) or (not head and tail in loads):
                values = [word.value for word in node.keywords if word.arg == "weights_only"]
                if not any(isinstance(value, ast.Constant) and value.value is True for value in values):
                    yield f"line {node.lineno}: torch.load without weights_only=True"


def nothing_unpickles(path: str, tree: ast.AST, names: list[str]) -> Iterator[str]:
    if not path.startswith(CODE):
        return
    yield from (f"imports {name}" for name in names if within(name, *UNPICKLERS))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("torch.load", "torch.serialization.load") and path != "stn/files.py":
                yield f"line {node.lineno}: call stn.files.load_tensors, whose refusal shows no way around"
            if called.startswith("yaml.") and called.endswith("load") and called != "yaml.safe_load":
                yield f"line {node.lineno}: {called} makes objects; call yaml.safe_load"
            for word in node.keywords:
                if word.arg == "allow_pickle" and not (
                    isinstance(word.value, ast.Constant) and word.value.value is False
                ):
                    yield f"line {node.lineno}: allow_pickle"


RULES = [
    nothing_unpickles,
    wandb_in_one_file,
    grid_sample_in_one_file,
    stn_stands_alone,
    stn_in_layers,
    experiments_in_layers,
    sections_stand_apart,
    torch_load_reads_weights_only,
]


def violations(rule, path: str, source: str) -> list[str]:
    tree = ast.parse(source, filename=path)
    return list(rule(path, tree, list(imports(path, tree))))


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    found = {path: (ROOT / path).read_text(encoding="utf-8") for path in python_files()}
    assert {"stn/sampler.py", "experiments/engine/tracking.py", "train.py"} <= found.keys()
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps_the_rule(rule, sources):
    broken = {path: found for path, source in sources.items() if (found := violations(rule, path, source))}
    assert broken == {}


def test_scripts_are_short(sources):
    lengths = {path: source.count("\n") for path, source in sources.items() if path.startswith("scripts/")}
    assert {path: lines for path, lines in lengths.items() if lines > SCRIPT_LINES} == {}


BREAKS = [
    (wandb_in_one_file, "experiments/engine/run.py", "import wandb"),
    (wandb_in_one_file, "scripts/a.py", "from wandb import init"),
    (wandb_in_one_file, "train.py", "def f():\n    import wandb.sdk as w"),
    (wandb_in_one_file, "stn/a.py", "import importlib\nimportlib.import_module('wandb')"),
    (grid_sample_in_one_file, "stn/transformer.py", "import torch.nn.functional as F\nF.grid_sample(a, b)"),
    (grid_sample_in_one_file, "scripts/a.py", "from torch.nn.functional import grid_sample as g"),
    (grid_sample_in_one_file, "experiments/a.py", "torch.grid_sampler_2d(a, b, 0, 0, False)"),
    (stn_stands_alone, "stn/models/a.py", "from hydra.utils import instantiate"),
    (stn_stands_alone, "stn/a.py", "from omegaconf import DictConfig"),
    (stn_stands_alone, "stn/a.py", "if True:\n    import matplotlib.pyplot as plt"),
    (stn_stands_alone, "stn/datasets/a.py", "from experiments import report"),
    (stn_stands_alone, "stn/a.py", "import wandb"),
    (stn_in_layers, "stn/transforms.py", "from stn.sampler import sample"),
    (stn_in_layers, "stn/sampler.py", "from stn import transforms"),
    (stn_in_layers, "stn/sampler.py", "from .transforms import Affine"),
    (stn_in_layers, "stn/localisation.py", "from stn.models.mnist import cnn"),
    (stn_in_layers, "stn/transformer.py", "import stn.datasets"),
    (stn_in_layers, "stn/transformer.py", "from stn import Affine"),  # by way of the package that imports it
    (stn_in_layers, "stn/models/a.py", "from stn.datasets import mnist"),
    (stn_in_layers, "stn/models/a.py", "from ..datasets import mnist"),
    (stn_in_layers, "stn/datasets/a.py", "from stn import models"),
    (stn_in_layers, "stn/datasets/a.py", "from stn.transformer import SpatialTransformer"),
    (experiments_in_layers, "experiments/engine/run.py", "from experiments.sections import birds"),
    (experiments_in_layers, "experiments/engine/run.py", "from experiments import report"),
    (experiments_in_layers, "experiments/engine/run.py", "from ..report import tables"),
    (experiments_in_layers, "experiments/report/tables.py", "from experiments.sections import TABLES"),
    (experiments_in_layers, "experiments/sections/birds.py", "from experiments.sweeps import pool"),
    (experiments_in_layers, "experiments/sweeps/pool.py", "import experiments.analysis.compare"),
    (experiments_in_layers, "experiments/analysis/compare.py", "from experiments import benchmarks"),
    (experiments_in_layers, "experiments/benchmarks/page.py", "from scripts import benchmark"),
    (experiments_in_layers, "experiments/compare.py", "import torch"),
    (
        sections_stand_apart,
        "experiments/sections/birds.py",
        "from experiments.sections.distorted_mnist import P",
    ),
    (sections_stand_apart, "experiments/sections/birds/parts.py", "from experiments.sections import svhn"),
    (
        sections_stand_apart,
        "experiments/sections/birds.py",
        "import experiments.sections.mnist_addition as a",
    ),
    (sections_stand_apart, "experiments/sections/figures.py", "from experiments.sections import birds"),
    (torch_load_reads_weights_only, "tests/a.py", "import torch\ntorch.load(p)"),
    (torch_load_reads_weights_only, "stn/a.py", "import torch\ntorch.load(p, weights_only=False)"),
    (torch_load_reads_weights_only, "stn/a.py", "import torch\ntorch.load(p, weights_only=flag)"),
    (torch_load_reads_weights_only, "stn/a.py", "import torch as t\nt.load(p, **options)"),
    (torch_load_reads_weights_only, "stn/a.py", "from torch import load as read\nread(p)"),
    (torch_load_reads_weights_only, "stn/a.py", "import torch\ntorch.serialization.load(p)"),
    (nothing_unpickles, "experiments/a.py", "import pickle"),
    (nothing_unpickles, "scripts/a.py", "from joblib import load"),
    (nothing_unpickles, "stn/a.py", "import numpy as np\nnp.load(p, allow_pickle=flag)"),
    (nothing_unpickles, "experiments/a.py", "import yaml\nyaml.unsafe_load(p)"),
    (nothing_unpickles, "experiments/a.py", "import torch\ntorch.load(p, weights_only=True)"),
]
KEEPS = [
    (wandb_in_one_file, "experiments/engine/tracking.py", "import wandb"),
    (wandb_in_one_file, "tests/a.py", "import wandb"),
    (wandb_in_one_file, "stn/a.py", "import wandbox"),
    (grid_sample_in_one_file, "stn/sampler.py", "F.grid_sample(a, b)"),
    (grid_sample_in_one_file, "tests/stn/a.py", "F.grid_sample(a, b)"),
    (grid_sample_in_one_file, "stn/a.py", "'''Not grid_sample.'''"),
    (stn_stands_alone, "stn/a.py", "import torch\nfrom stn import sampler"),
    (stn_in_layers, "stn/transformer.py", "from stn.localisation import Head\nfrom stn import sampler"),
    (stn_in_layers, "stn/models/a.py", "from stn.models.b import c\nfrom . import b\nimport torch"),
    (stn_in_layers, "stn/datasets/a.py", "from stn.transforms import Affine"),
    (experiments_in_layers, "experiments/engine/run.py", "from experiments.engine import loop\nimport stn"),
    (
        experiments_in_layers,
        "experiments/analysis/landscape.py",
        "from experiments.sections.birds import HEAD",
    ),
    (experiments_in_layers, "experiments/__init__.py", ""),
    (experiments_in_layers, "scripts/a.py", "from experiments import benchmarks"),
    (sections_stand_apart, "experiments/sections/birds.py", "from experiments.sections import figures"),
    (
        sections_stand_apart,
        "experiments/sections/__init__.py",
        "from experiments.sections import birds, svhn",
    ),
    (sections_stand_apart, "experiments/sections/birds/a.py", "from experiments.sections.birds.b import c"),
    (torch_load_reads_weights_only, "stn/a.py", "import torch\ntorch.load(p, weights_only=True)"),
    (torch_load_reads_weights_only, "stn/a.py", "import json\njson.load(p)\nload(p)"),
    (nothing_unpickles, "stn/files.py", "import torch\ntorch.load(p, weights_only=True)"),
    (nothing_unpickles, "tests/a.py", "import pickle"),
    (nothing_unpickles, "stn/a.py", "import yaml\nyaml.safe_load(p)\nnp.load(p, allow_pickle=False)"),
]


@pytest.mark.parametrize(("rule", "path", "source"), BREAKS)
def test_a_broken_rule_is_found(rule, path, source):
    assert violations(rule, path, source)


@pytest.mark.parametrize(("rule", "path", "source"), KEEPS)
def test_what_is_allowed_is_not_reported(rule, path, source):
    assert violations(rule, path, source) == []


def test_every_rule_is_seen_to_fail_and_to_pass():
    assert {rule for rule, *_ in BREAKS} == {rule for rule, *_ in KEEPS} == set(RULES)
