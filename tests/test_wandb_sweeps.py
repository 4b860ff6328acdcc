"""scripts/wandb_sweeps/: files that W&B can read, of runs that our own command line accepts.

W&B judges a sweep on its server. What can be asked offline is asked of W&B's own code: how its agent makes a command of
a run's parameters, and what its scheduler makes of their distributions; the keys' names are checked here.
"""

import functools
import itertools
from pathlib import Path

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config
from wandb.sdk.sweeps.scheduler.optuna import search_space_from_sweep_config

from experiments.engine import rundir
from experiments.engine.cli import explain_bad_overrides
from experiments.engine.configuration import composing
from experiments.engine.run import check, run
from experiments.sweeps.plan import plan

pytestmark = [  # W&B leaves the file open
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = Path(__file__).resolve().parents[1]
SWEEPS = {path.stem: path for path in sorted((ROOT / "scripts" / "wandb_sweeps").glob("*.yaml"))}

KEYS = {"project", "name", "program", "method", "metric", "parameters", "early_terminate", "command"}
PARAMETER = {  # distribution (None: not said) -> the keys that go with it
    None: [{"values"}, {"value"}],
    "uniform": [{"distribution", "min", "max"}],
    "log_uniform_values": [{"distribution", "min", "max"}],
}


@functools.cache
def read(name: str) -> dict:
    config = load_sweep_config(str(SWEEPS[name]))
    assert isinstance(config, dict), f"{name}: W&B cannot read it"
    return config


def overrides(name: str) -> list[list[str]]:
    """What the agent would give train.py: every combination of a grid; of a search both ends of everything."""
    config = read(name)
    if config["method"] == "grid":
        values = itertools.product(*(spec["values"] for spec in config["parameters"].values()))
    else:
        values = zip(*((spec["min"], spec["max"]) for spec in config["parameters"].values()), strict=True)
    found = []
    for chosen in values:
        args = {key: {"value": value} for key, value in zip(config["parameters"], chosen, strict=True)}
        macros = create_sweep_command_args({"args": args}) | {"env": [], "interpreter": [], "program": []}
        parts = create_sweep_command(list(config["command"]))
        assert parts[:3] == ["${env}", "${interpreter}", "${program}"] and config["program"] == "train.py"
        found.append([w for part in parts for w in (macros[part[2:-1]] if part.startswith("${") else [part])])
    return found


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Path]]:
    """name -> the directories of a sweep's runs, composed and checked as train.py does; seeds share a composition."""
    made: dict[str, list[Path]] = {}
    with composing() as make:
        compose = functools.cache(lambda *words: make(words))
        for name in SWEEPS:
            made[name] = []
            for words in overrides(name):
                seeds = [word.removeprefix("seed=") for word in words if word.startswith("seed=")]
                words = [word for word in words if not word.startswith("seed=")]
                cfg = compose(*words)
                cfg.seed = int(seeds[0]) if seeds else cfg.seed
                check(cfg)
                held_out = read(name)["metric"]["name"].startswith("val/")
                assert (cfg.dataset.val_size > 0) == held_out, (
                    "the metric is not of the digits that are held out"
                )
                made[name].append(rundir.run_dir(cfg, words))
    return made


@pytest.mark.parametrize("name", SWEEPS)
def test_wandb_can_read_it(name):
    config = read(name)
    assert set(config) <= KEYS
    assert config["method"] in ("grid", "random", "bayes")
    assert set(config["metric"]) == {"name", "goal"} and config["metric"]["goal"] in ("minimize", "maximize")
    assert (ROOT / config["program"]).exists()
    for key, spec in config["parameters"].items():
        assert set(spec) in PARAMETER[spec.get("distribution")], key
        assert config["method"] != "grid" or "values" in spec or "value" in spec, (
            f"{key}: no grid has a range"
        )
    if "early_terminate" in config:
        assert config["early_terminate"]["type"] == "hyperband"
        assert set(config["early_terminate"]) == {"type", "min_iter", "eta"}


@pytest.mark.parametrize("name", SWEEPS)
def test_wandbs_scheduler_makes_distributions_of_it(name):
    pytest.importorskip("optuna")
    config = read(name)
    space = search_space_from_sweep_config(config["parameters"])
    assert space.keys() == config["parameters"].keys()
    for key, spec in config["parameters"].items():
        assert getattr(space[key], "log", False) == (spec.get("distribution") == "log_uniform_values"), key


@pytest.mark.parametrize("name", SWEEPS)
def test_every_run_is_one_that_train_py_accepts_and_none_comes_twice(name, runs):
    assert len(runs[name]) == len(set(runs[name])) == len(overrides(name))
    explain_bad_overrides(overrides(name)[0])  # ends the program at a key that does not exist


def test_the_two_of_table_1_are_the_runs_of_table_1(runs):
    planned = plan("table1", trainer="fast", seeds=[0, 1, 2], results=ROOT / "results")
    swept = [ROOT / folder for folder in runs["table1"] + runs["table1_baselines"]]
    assert sorted(swept) == sorted(run.folder for run in planned)


def test_the_metrics_are_ones_that_a_run_logs(tmp_path):
    tiny = ["dataset=digits", "trainer=smoke", "threads=1", "device=cpu", "model.width=4", "figures=false"]
    tiny += ["trainer.iterations=2", "trainer.batch_size=8", "dataset.val_size=40", "wandb.mode=disabled"]
    with composing() as make:
        cfg = make([*tiny, f"output_dir={tmp_path}"])
    result = run(cfg)
    logged = (rundir.run_dir(cfg) / "metrics.jsonl").read_text()
    for name in SWEEPS:
        metric = read(name)["metric"]["name"]
        assert metric in result.metrics or f'"{metric}"' in logged, name


def test_the_search_is_stopped_by_validations_that_happen():
    config = read("search")
    with composing() as make:
        trainer = make(overrides("search")[0]).trainer
    validations = trainer.iterations // trainer.val_every
    assert config["early_terminate"]["min_iter"] * config["early_terminate"]["eta"] <= validations
