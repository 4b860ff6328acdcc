"""A run's identity: names and values, whatever the place of a class and the circumstances of a run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import get_object

from experiments.engine import identity as module
from experiments.engine.identity import config_hash, current_name, decides, differences, identity, stored
from experiments.engine.result import Result

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = sorted((ROOT / "results" / "runs").glob("*/*.json"))


def elsewhere(node):
    """The configuration as a version of the code would store it whose classes live in other modules."""
    if isinstance(node, dict):
        moved = {key: elsewhere(value) for key, value in node.items()}
        if isinstance(moved.get("_target_"), str):
            moved["_target_"] = f"some.other.place.{current_name(moved['_target_']).rsplit('.', 1)[-1]}"
        return moved
    return [elsewhere(value) for value in node] if isinstance(node, list) else node


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_class_that_has_moved_is_the_same(path):
    config = Result.read(path).config
    assert elsewhere(config) != config
    assert identity(elsewhere(config)) == identity(config)
    assert identity(identity(config)) == identity(config)  # of an identity, the identity is itself


def targets(node):
    """Every `_target_` of a configuration."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    own = [node["_target_"]] if isinstance(node, dict) and "_target_" in node else []
    return [*own, *(name for part in inner for name in targets(part))]


def test_every_class_of_a_published_run_is_there_today():
    names = {name for path in PUBLISHED for name in targets(module._kept(Result.read(path).config))}
    assert {current_name(name) for name in names} >= {
        "experiments.sections.birds.BirdClassification",
        "experiments.sections.colocalisation.Colocalisation",
    }
    for name in names:
        assert callable(get_object(current_name(name))), name


def test_no_two_published_runs_are_the_same():
    assert len({config_hash(Result.read(path).config) for path in PUBLISHED}) == len(PUBLISHED)


def test_an_identity_has_no_path_of_the_code(configure):
    text = json.dumps(identity(configure("model=st_cnn", "transform=tps")))
    assert '"_target_": "ThinPlateSpline"' in text and "stn." not in text and "experiments." not in text


def test_what_is_stored_can_be_built_again_and_is_the_same_run(configure):
    cfg = configure("model=st_cnn")
    assert stored(cfg)["model"]["_target_"].startswith("stn.models.")
    assert "threads" not in stored(cfg)
    assert identity(stored(cfg)) == identity(cfg)


def test_values_names_and_seeds_count(configure):
    base = configure("model=st_cnn")
    for change in (
        "seed=1",
        "optimizer.lr=0.5",
        "transform=tps",
        "model=st_fcn",
        "trainer.schedule.warmup=0.1",
    ):
        assert identity(configure("model=st_cnn", change)) != identity(base), change


def test_a_key_added_later_equals_its_absence_at_one_value_only():
    old = {"model": {}, "optimizer": {"lr": 0.1}}
    assert identity(old) == identity({"model": {}, "optimizer": {"lr": 0.1, "pretrained_lr": None}})
    assert identity(old) != identity({"model": {}, "optimizer": {"lr": 0.1, "pretrained_lr": 0.0}})


def test_keys_that_decide():
    for key in ("optimizer.lr", "trainer.iterations", "dataset.distort.scale", "transform.scale", "sections"):
        assert decides(key), key
    for key in ("threads", "wandb.mode", "trainer.log_every", "dataset.digits.data_dir", "task.a.cache_dir"):
        assert not decides(key), key


def test_moved_names_by_the_longest_entry(monkeypatch):
    monkeypatch.setattr(module, "MOVED", {"a.b": "x.y", "a.b.Old": "z.New"})
    assert current_name("a.b.f") == "x.y.f"
    assert current_name("a.b.Old") == "z.New"
    assert current_name("a.bc.f") == "a.bc.f"
    assert identity({"model": {"_target_": "a.b.Old"}}) == identity({"model": {"_target_": "z.New"}})


def test_differences_name_the_keys():
    theirs = {"model": {"width": 8, "name": "cnn"}, "seed": 0}
    ours = {"model": {"width": 9, "name": "cnn"}, "seed": 0, "task": {}}
    assert differences(theirs, ours) == ["model.width (8 -> 9)", "task (None -> {})"]


HELD = """
import sys
from pathlib import Path
from experiments.engine.result import Result
from experiments.sweeps.plan import plan

results = Path(sys.argv[1])
jobs = [job for name in ("tc", "addition", "3d") for job in plan(name, trainer="fast", seeds=[0], results=results)]
jobs += plan("birds", trainer="fast", seeds=[0], results=results, dataset="cub50")
found = [job for job in jobs if job.published.exists()]
assert all(Result.read(job.published).is_of(job.identity) for job in found)
print(len(found))
"""


def test_a_class_moved_in_a_copy_of_the_tree_leaves_every_published_run_as_it_is(tmp_path):
    for folder in ("stn", "experiments", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "stn" / "models" / "mnist.py").rename(tmp_path / "stn" / "models" / "small.py")
    moved = 0
    for path in [*tmp_path.rglob("*.py"), *tmp_path.rglob("*.yaml")]:
        text = path.read_text()
        path.write_text(text.replace("stn.models.mnist", "stn.models.small"))
        moved += "stn.models.mnist" in text
    assert moved > 5
    command = [sys.executable, "-c", HELD, str(ROOT / "results")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    planned = ("mnist_tc", "mnist_addition", "mnist_3d", "cub_")
    first = [
        path for path in PUBLISHED if path.stem.endswith("seed_0") and path.parent.name.startswith(planned)
    ]
    assert int(done.stdout) == len(first) > 10
