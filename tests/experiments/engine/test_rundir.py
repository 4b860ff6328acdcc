"""The run directory's name: one name for one run, whatever the words; directories under older names are found."""

import pytest

from experiments.engine import rundir
from experiments.engine.configuration import configuration
from experiments.engine.files import write_json
from experiments.engine.identity import stored


def name(*overrides):
    return rundir.run_name(configuration(overrides), overrides)


@pytest.mark.parametrize(
    ("overrides", "further"),
    [
        (["optimizer.lr=0.10"], ["optimizer.lr=0.1"]),
        (["optimizer.lr=1e-1"], ["optimizer.lr=0.1"]),
        (["optimizer.lr=3", "seed=4", "optimizer.lr=1.0e-1"], ["optimizer.lr=0.1"]),  # the last counts
        (["optimizer.lr=1.0"], ["optimizer.lr=1"]),
        (["optimizer.lr=0.010"], []),  # the default
        (["optimizer=sgd", "dataset=mnist", "dataset.distort.scale=[0.70,1.2]"], []),  # defaults
        (["device=cpu", "threads=3", "data_dir=/x", "trainer.log_every=1", "wandb.mode=disabled"], []),
        (["++dataset.cache_dir=/x", "hydra.verbose=true", "~trainer.hint"], []),  # circumstances
        (["backbone=resnet18"], []),  # no part of this network
        (["model=cnn", "transform=tps"], []),
        (["trainer=fast", "optimizer=muon"], []),
        (["trainer=fast", "optimizer=sgd"], ["optimizer=sgd"]),
        (["trainer=fast", "trainer.iterations=7", "trainer.schedule.iterations=7"], ["trainer.iterations=7"]),
        (["+a.b='x y/z'", "dataset=digits"], ["a.b=xy_z", "dataset=digits"]),  # sorted, no folder in it
        (["++model.width=8"], ["model.width=8"]),
        (["trainer.schedule.gamma=0.5", "~trainer.schedule.step_size"],
         ["trainer.schedule.gamma=0.5", "~trainer.schedule.step_size"]),
    ],
)  # fmt: skip
def test_a_run_has_one_name(overrides, further):
    network = name(*(one for one in overrides if one.startswith(("model=", "transform=", "trainer="))))
    assert name(*overrides) == ",".join([network, *further])
    assert name("experiment=mnist_rts", *overrides, "seed=9") == name(*overrides)


def test_an_override_of_birds_that_changes_nothing():
    birds = ["experiment=cub_2st_448", "dataset=cub50"]
    expected = "image_st_cnn-translation-fast,dataset=cub50"
    assert name(*birds, "trainer=fast") == expected
    same = [
        "backbone=mobilenet_v2",
        "optimizer.lr=0.0015",
        "schedules.smoke.iterations=3",
        "dataset.cache_dir=/tmp/x",
    ]
    assert name(*birds, "trainer=fast", *same) == expected
    assert (
        name(*birds, "trainer=fast", "backbone=resnet18") == f"{expected.replace(',', ',backbone=resnet18,')}"
    )


def test_a_directory_under_an_older_name_is_found(tmp_path):
    overrides = ["model=cnn", "optimizer.lr=1e-1", "seed=2", f"output_dir={tmp_path}"]
    cfg = configuration(overrides)
    new = rundir.run_dir(cfg, overrides)
    assert new == tmp_path / "mnist_rts" / "cnn-paper,optimizer.lr=0.1" / "seed_2"
    old = tmp_path / "mnist_rts" / "cnn-paper,optimizer.lr=1e-1" / "seed_2"
    write_json(old.parent.with_name("cnn-paper,broken") / "seed_2" / "config.json", [])
    write_json(old / "config.json", stored(cfg))
    assert rundir.run_dir(cfg, overrides) == rundir.run_dir(cfg, ["model=cnn", "optimizer.lr=0.10"]) == old
    other = configuration([*overrides, "optimizer.lr=0.2"])
    assert rundir.run_dir(other, [*overrides, "optimizer.lr=0.2"]) != old
    new.mkdir(parents=True)
    assert rundir.run_dir(cfg, overrides) == new


def test_a_name_too_long_for_a_file_system_ends_in_a_hash_of_all_of_it(configure):
    one, two = ([f"dataset.distort.scale=[{'0.123456789,' * 30}{end}]"] for end in (1, 2))
    names = [rundir.run_name(configure(), overrides) for overrides in (one, two)]
    assert names[0] != names[1] and names[0][:100] == names[1][:100]
    assert all(len(name) == rundir.LONGEST for name in names)
