"""Every file in configs/ composes, builds and trains; every experiment file's header is a true lab note."""

import glob
import re
import shlex
import statistics
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from experiments.engine.build import UserError
from experiments.engine.configuration import composing, configuration, groups, options
from experiments.engine.identity import identity
from experiments.engine.result import Result
from experiments.engine.run import run
from experiments.engine.rundir import run_name
from experiments.sections import birds, colocalisation, distorted_mnist, mnist_addition

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
PUBLISHED = sorted((CONFIGS.parent / "results" / "runs").glob("*/*.json"))


# volumes, photographs, and images without labels, are trained in tests of their own
IMAGES = [
    one
    for one in EXPERIMENTS
    if one not in ("mnist_3d", "colocalisation", "own_images", *birds.EXPERIMENTS, *birds.CONTROLS)
]


@pytest.mark.parametrize("experiment", IMAGES)
@pytest.mark.parametrize("model", ["fcn", "cnn", "st_fcn", "st_cnn", "2st_fcn"])
def test_every_experiment_trains_two_steps_with_every_model(configure, experiment, model):
    result = run(configure(f"experiment={experiment}", f"model={model}", "trainer.iterations=2"))
    assert (result.experiment, result.model, result.iterations) == (experiment, model, 2)
    assert 0 <= result.metrics["test_error"] <= 100
    assert (result.transform is None) == ("st_" not in model)


@pytest.mark.parametrize("model", ["cnn_bn", "st_cnn_bn", "st_cnn_iterated", "st_cnn_shared"])
@pytest.mark.parametrize("experiment", ["mnist_rts", "mnist_addition"])
def test_networks_beyond_the_paper_train_two_steps(configure, experiment, model):
    result = run(configure(f"experiment={experiment}", f"model={model}", "trainer.iterations=2"))
    assert (result.model, result.transform) == (model, "affine" if "st_" in model else None)
    assert 0 <= result.metrics["test_error"] <= 100


@pytest.mark.parametrize("model", ["cnn_3d", "st_cnn_3d"])
def test_volumes_train_two_steps_with_every_model(configure, model):
    small = ("dataset.distort.canvas=32", "trainer.iterations=2")
    result = run(configure("experiment=mnist_3d", f"model={model}", *small))
    assert (result.model, result.transform) == (model, "affine3d" if "st_" in model else None)
    assert 0 <= result.metrics["test_error"] <= 100


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("experiment=mnist_3d", "model=st_cnn"), "choose model=cnn_3d or st_cnn_3d"),
        (("experiment=mnist_r", "model=st_cnn_3d"), "choose model=cnn or st_cnn"),
        (("experiment=mnist_3d", "transform=affine"), "choose transform=affine3d"),
        (("experiment=mnist_r", "transform=affine3d"), "choose one of images"),
        (("model=st_cnn_shared", "transform=affine3d"), "choose one of images"),
        (
            ("model=st_cnn_iterated", "transform=tps"),
            "ThinPlateSpline do not compose to one of its kind: choose",
        ),
        (("model=st_cnn_iterated", "transform=translation"), "Translation with scale 1"),
        (
            ("model=st_cnn_iterated", "model.looks=0"),
            "model.looks=0 is not valid: it is a whole number from 1",
        ),
    ],
)
def test_a_network_that_does_not_fit_says_what_to_choose(configure, overrides, message):
    with pytest.raises(UserError, match=message):
        run(configure(*overrides))


PLANE = sorted(path.stem for path in (CONFIGS / "transform").glob("*.yaml") if path.stem != "affine3d")


@pytest.mark.parametrize("transform", PLANE)
@pytest.mark.parametrize("model", ["st_fcn", "st_cnn"])
def test_every_transform_trains(configure, transform, model):
    assert run(configure(f"transform={transform}", f"model={model}")).transform == transform


@pytest.mark.parametrize("trainer", ["paper", "fast"])
def test_the_long_schedules_train_a_few_steps(configure, trainer):
    result = run(configure(f"trainer={trainer}", "trainer.iterations=2"))
    assert result.trainer == trainer


def test_paper_schedule_is_the_papers(configure):
    cfg = configure("model=st_cnn", tiny=False)
    assert OmegaConf.select(cfg, "trainer.name") == "paper"
    assert (cfg.trainer.iterations, cfg.trainer.batch_size) == (150_000, 256)
    assert (cfg.optimizer._target_, cfg.optimizer.lr, cfg.optimizer.weight_decay) == (
        "torch.optim.SGD",
        0.01,
        0,
    )
    assert (cfg.trainer.schedule.step_size, cfg.trainer.schedule.gamma) == (50_000, 0.1)
    assert cfg.model.param_budget == 400_000 and cfg.dataset.val_size == 0


def test_the_papers_schedule_for_birds_is_the_papers(configure):
    cfg = configure("experiment=cub_4st_448", tiny=False)
    assert OmegaConf.select(cfg, "trainer.name") == "paper" and cfg.trainer.batch_size == 256
    assert (
        list(cfg.trainer.schedule.milestones) == [10_000, 20_000, 25_000]
        and cfg.trainer.schedule.gamma == 0.1
    )
    optimizer = cfg.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.localisation_lr) == (0.1, 1e-5, 1e-4)
    assert (cfg.model.num_transformers, cfg.model.crop, cfg.model.seen, cfg.model.dropout) == (
        4,
        224,
        224,
        0.7,
    )
    assert (cfg.dataset.size, cfg.transform.scale, cfg.backbone.arch) == (448, 0.5, "googlenet")
    assert configure("experiment=cub_4st_448", "dataset=cub50", tiny=False).backbone.arch == "mobilenet_v2"
    chosen = configure("experiment=cub_4st_448", "dataset=cub50", "backbone=resnet18", tiny=False)
    assert chosen.backbone.arch == "resnet18"


def published_overrides(path):
    """What train.py was given for a published run, from the name of its file."""
    name, seed = path.stem.rsplit("-seed_", 1)
    network, *further = name.split(",")
    model, *transform, trainer = network.split("-")
    return [
        f"experiment={path.parent.name}",
        f"model={model}",
        *(f"transform={one}" for one in transform),
        f"trainer={trainer}",
        *further,
        f"seed={seed}",
    ]


# Of the seeds of a cell, the first: the others differ in the seed alone.
CELLS = {(path.parent.name, path.stem.rpartition("-seed_")[0]): path for path in reversed(PUBLISHED)}


@pytest.mark.parametrize("path", CELLS.values(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_todays_files_make_every_published_run_and_its_name(path):
    overrides = published_overrides(path)
    cfg = configuration(overrides)
    assert Result.read(path).is_of(cfg)
    assert f"{run_name(cfg, overrides)}-seed_{cfg.seed}" == path.stem


def test_a_schedule_takes_its_own_values_alone():
    def made(*overrides):
        return identity(configuration(["experiment=cub_2st_448", *overrides]))

    fast, smoke, paper = made("trainer=fast"), made("trainer=smoke"), made()
    assert (fast["optimizer"]["lr"], fast["optimizer"]["localisation_lr"]) == (0.0015, 0.1)
    assert fast["model"]["backbone"]["norm"] == "frozen" and fast["task"]["smoothing"] == [0.3, 0.15]
    assert (smoke["optimizer"]["lr"], smoke["optimizer"]["localisation_lr"]) == (0.003, 1.0)
    assert smoke["model"]["backbone"]["norm"] == paper["model"]["backbone"]["norm"] == "batch"
    assert smoke["trainer"]["iterations"] == 20 and "smoothing" not in smoke["task"]
    changed = made("trainer=fast", "schedules.fast.lr=0.5", "schedules.smoke.iterations=7")
    assert changed["optimizer"]["lr"] == 0.5
    digits = configuration(["trainer=fast"])
    assert (digits.trainer.iterations, digits.trainer.batch_size, digits.optimizer.lr) == (12000, 256, 0.003)
    assert (digits.optimizer.matrices.lr, digits.task.label_smoothing) == (0.005, 0.1)
    assert configuration([]).task.label_smoothing == 0.0  # the paper's schedule


@pytest.mark.parametrize("experiment", ["mnist_rts", "mnist_addition", "cub_2st_448"])
def test_the_papers_schedule_is_sgd(experiment):
    cfg = configuration([f"experiment={experiment}"])
    assert (cfg.trainer.name, cfg.optimizer._target_) == ("paper", "torch.optim.SGD")
    assert cfg.optimizer.lr == (0.1 if experiment == "cub_2st_448" else 0.01)


def test_pooling_is_the_experiments_and_only_of_networks_with_transformers():
    assert configuration(["experiment=mnist_rts", "model=st_fcn"]).model.pool == 2
    assert configuration(["experiment=mnist_r", "model=st_cnn"]).model.pool == 1
    assert "pool" not in configuration(["experiment=mnist_rts", "model=cnn"]).model


def test_files_that_others_share_are_no_choice():
    with composing():
        assert options("experiment") == EXPERIMENTS
        assert not any(name.startswith("_") for group in groups() for name in [group, *options(group)])


def test_a_missing_value_is_named_by_its_key(configure):
    for key, overrides in {
        "dataset.root": ["experiment=own_images"],
        "dataset.digit": ["experiment=colocalisation", "images=t"],
    }.items():
        with pytest.raises(UserError, match=rf"does not run without {key}: give {key}=VALUE"):
            run(configure(*overrides, tiny=False))


def headline(experiment):
    """The network whose numbers an experiment's header gives, and further overrides, as in published runs' names."""
    return {
        "mnist_addition": ("2st_fcn-affine", ""),
        "mnist_3d": ("st_cnn_3d-affine3d", "dataset.distort.canvas=32"),
        "colocalisation": ("localiser-attention", "dataset.digit=8,images=tc"),
        "cub_cnn_224": ("image_cnn", "dataset=cub50"),
        **{one: ("image_st_cnn-translation", "dataset=cub50") for one in birds.EXPERIMENTS if "st" in one},
    }.get(experiment, ("st_cnn-affine", ""))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_header_says_what_to_run_and_the_papers_numbers(experiment):
    text = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text()
    lines = text.splitlines()
    assert lines[0] == "# @package _global_"
    assert "paper section" in lines[1]
    header = dict(re.findall(r"^# (\w+): +(.*)$", text, re.M))
    assert set(header) == {"run", "takes", "paper"}
    words = shlex.split(header["run"], comments=True)  # a line that a shell takes as it stands
    assert words[:3] == ["python", "train.py", f"experiment={experiment}"]
    assert all(re.fullmatch(r"[\w.]+=\w+", word) for word in words[3:])
    numbers = [
        float(n) for n in re.findall(r"(\d+\.\d+) % error|(\d+\.\d+) % with", header["paper"]) for n in n if n
    ]
    if experiment in ("mnist_3d", "own_images", "upright", *birds.CONTROLS):
        assert header["paper"].startswith("no number;")
    elif experiment == "colocalisation":
        cluttered = colocalisation.PAPER["TC", "attention"].values()
        found = f"T 100 % of each digit found, TC {min(cluttered):.0f} to {max(cluttered):.0f} %"
        assert header["paper"].startswith(found)
    elif experiment in birds.EXPERIMENTS:
        accuracy = birds.PAPER[experiment, None]["accuracy"]
        assert header["paper"].startswith(f"{accuracy} % accuracy on all 200 classes")
    else:
        paper = mnist_addition.PAPER if experiment == "mnist_addition" else distorted_mnist.PAPER
        model, transform = headline(experiment)[0].split("-")
        column = distorted_mnist.OTHERS.get(experiment, experiment)
        assert numbers == [paper[model, transform][column], paper["cnn", None][column]]
    assert yaml.safe_load(text)["experiment"] == experiment


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_header_says_what_published_runs_took(experiment):
    text = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text()
    network, further = headline(experiment)
    name = ",".join(filter(None, [f"{network}-fast", further]))
    published = sorted(
        (CONFIGS.parent / "results" / "runs" / experiment).glob(f"{glob.escape(name)}-seed_*.json")
    )
    if published:
        # The median over the seeds that the machine of most of them has trained.
        results = [Result.read(path) for path in published]
        device = statistics.mode(result.device for result in results)
        seconds = statistics.median(result.wall_seconds for result in results if result.device == device)
        how = " ".join(filter(None, ["trainer=fast", *further.split(",")]))
        takes = f"{how} {round(seconds / 60)} min on {device}"
    else:
        takes = "not measured yet; the first line of a run says"
    assert f"# takes:  {takes}\n" in text


def test_every_config_file_says_what_it_is():
    for path in CONFIGS.rglob("*.yaml"):
        assert any(
            line.startswith("# ") and "@package" not in line for line in path.read_text().splitlines()
        ), path
