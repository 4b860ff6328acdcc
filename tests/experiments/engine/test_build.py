"""Config to object: an allow-list, labels, clear errors; optimiser groups and schedules; the command line's errors."""

import contextlib
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import experiments.engine
import experiments.sections
import stn
from experiments.engine.build import UserError, build, offered
from experiments.engine.cli import explain_bad_overrides
from experiments.engine.optim import make_optimizer, one_cycle
from stn.models.backbones import Backbone
from stn.models.images import ImageSTCNN
from stn.models.mnist import cnn, st_cnn

ROOT = Path(__file__).resolve().parents[3]


REFUSED = [
    "os.system", "builtins.eval", "torch.load", "stnx.Affine", "subprocess.run",
    "hydra.utils.get_method", "hydra.utils.get_class", "hydra.utils.get_object", "hydra.utils.instantiate",
    "experiments.engine.build.get_object", "experiments.engine.build.instantiate", "experiments.engine.build.build",
    "experiments.engine.checkpoint.torch.load", "experiments.engine.checkpoint.load",
    "experiments.engine.checkpoint.save",
    "experiments.engine.files.write_json", "experiments.engine.run.load_run", "experiments.engine.run.run",
    "experiments.engine.provenance.subprocess.run", "experiments.engine.history.History",
    "experiments.engine.tracking.Tracker", "experiments.sections.birds.BIRDS.place",
    "experiments.sections.birds.SECTION", "experiments.sections.birds.torch.hub.load",
    "experiments.sections.own_images.classification.draw", "experiments.sweeps.pool.run_pool",
    "experiments.analysis.landscape.landscape_of_run", "stn.datasets.bird_archives.unpack",
    "stn.datasets.bird_archives.make_once", "stn.datasets.bird_archives.shutil.copy", "stn.datasets.birds.make_once",
    "stn.datasets.image_cache.ImageCache", "stn.datasets.mnist.np.load", "stn.datasets.mnist._download",
    "stn.datasets.toy_birds.toy_birds", "stn.files.load_tensors", "stn.files.Path", "stn.files.os.system",
    "stn.models.backbones._download", "stn.models.backbones.zoo.resnet18", "stn.models.backbones.nn.Linear",
    "stn.models.mnist.CNN.load_state_dict", "stn.models.mnist.cnn.__globals__", "stn.transforms.Affine.__class__",
    "stn.transforms", "stn", "stn.transforms.Afine", "stn..transforms.Affine",
    "torch.optim.lr_scheduler.types.new_class",
    "torch.optim.swa_utils.AveragedModel", "torch.optim.optimizer.torch.load", "",
]  # fmt: skip


@pytest.mark.parametrize("target", REFUSED)
def test_what_is_not_offered_is_refused_at_any_depth(target):
    inside = {"_target_": "stn.transforms.Affine"}
    for node in (
        {"_target_": target},
        {"_target_": target, "_partial_": True, "_recursive_": False, "_convert_": "none"},
        inside | {"deep": [{"x": {"_target_": target}}]},
        inside | {"_args_": [[{"_target_": target}]]},
        inside | {"_recursive_": False, "x": {"_target_": target}},
    ):
        for given in (node, OmegaConf.create(node)):
            with pytest.raises(UserError, match="is not allowed"):
                build(given)


@pytest.mark.parametrize(
    "value", ["${oc.create:{_target_:os.system}}", "\\${oc.create:{_target_:os.system}}", "${oc.env:HOME}"]
)
def test_what_is_built_has_no_interpolations_left(value):
    with pytest.raises(UserError, match="is not allowed"):
        build({"_target_": "stn.transforms.Affine", "x": [value]})


def test_interpolations_of_a_composed_configuration_are_resolved_first():
    cfg = OmegaConf.create({"s": 0.25, "t": {"_target_": "stn.transforms.Translation", "scale": "${s}"}})
    assert build(cfg.t).scale == 0.25


def test_every_target_in_the_configurations_is_offered():
    files = [path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.parent.name != "hydra"]
    named = {name for path in files for name in re.findall(r"_target_:\s*(\S+)", path.read_text())}
    assert len(named) > 30
    assert all(callable(offered(name)) for name in named)


# What a received configuration can call, besides transforms, distortions and torch's optimisers and schedules. Read a
# new name here: what it does with text and numbers of a stranger's choice. It may read images and weights, and load_run
# says where it writes; it must start nothing and write, move or delete nothing else.
REACHABLE = """
stn.convolution: Conv2d
stn.datasets.addition: AddedDigits
stn.datasets.birds: Birds to_middle_square
stn.datasets.colocalisation: SharedDigit place_digit roll_each
stn.datasets.digits: Digits load_digits
stn.datasets.distorted: DistortedDigits TurnedDigits
stn.datasets.folder: OwnImages
stn.datasets.images: ImageDataset
stn.datasets.mnist: load_mnist
stn.datasets.volumes: SolidDigits extrude place_solid rotation
stn.localisation: ConvTrunk ConvTrunk3d FCTrunk Head LocalisationNetwork
stn.models.backbones: Backbone SameDepthwise SamePadding
stn.models.beyond: SharedSTN st_cnn_shared
stn.models.colocalisation: Localiser WindowHead boxes
stn.models.images: BackboneTrunk ImageCNN ImageSTCNN tiling
stn.models.mnist: CNN FCN STN average_pool cnn fcn of_width st_cnn st_fcn
stn.models.volumes: ProjectedCNN cnn_3d st_cnn_3d
stn.models.weights: pretrained
stn.sampler: in_frame sample
stn.transformer: ParallelTransformers SpatialTransformer
experiments.engine.interfaces: Data Task
experiments.engine.muon: MuonAdamW orthogonalise
experiments.engine.optim: make_optimizer one_cycle
experiments.engine.smoothing: SmoothedClassification
experiments.engine.task: Classification
experiments.sections.birds: BirdClassification corners inside region_centres
experiments.sections.colocalisation: Colocalisation embedding iou triplet_hinge unshift within
experiments.sections.figures.whole_sets: collect undistorted_means
experiments.sections.figures.drawing: apply lattice
experiments.sections.mnist_addition: Addition centres followed mass_inside
experiments.sections.upright: Upright residuals
"""


def test_what_a_received_configuration_can_reach():
    reached: dict[str, list[str]] = {}
    for package in (stn, experiments.engine, experiments.sections):
        inside = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        for module in [package.__name__, *(one.name for one in inside)]:
            for name in vars(importlib.import_module(module)):
                with contextlib.suppress(UserError):
                    found = offered(f"{module}.{name}")
                    reached.setdefault(found.__module__, []).append(name)
    growing = {"stn.transforms", "stn.datasets.distortions"}  # tensors to tensors
    listed = [f"{module}: {' '.join(sorted(set(names)))}" for module, names in reached.items()]
    assert sorted(one for one in listed if one.split(":")[0] not in growing) == sorted(
        REACHABLE.split("\n")[1:-1]
    )


def test_name_is_a_label_and_the_config_stays_as_it_was():
    node = OmegaConf.create({"_target_": "stn.transforms.Translation", "name": "translation", "scale": 0.25})
    assert build(node).scale == 0.25
    assert node.name == "translation"
    plain = {"_target_": "stn.transforms.Affine", "name": "affine"}
    assert isinstance(build(plain), stn.Affine)
    assert plain["name"] == "affine"


def test_a_constructors_refusal_is_the_message():
    with pytest.raises(UserError, match="Translation needs a scale above 0"):
        build(OmegaConf.create({"_target_": "stn.transforms.Translation", "scale": -1}))
    with pytest.raises(UserError, match="unexpected keyword argument 'sclae'"):
        build(OmegaConf.create({"_target_": "stn.transforms.Translation", "sclae": 1}))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_localisation_has_its_own_rate_and_every_parameter_is_in_one_group(name):
    torch.manual_seed(0)  # four filters may all be dead
    model = st_cnn((1, 28, 28), transform=stn.Affine(), width=4)
    optimizer = make_optimizer(
        model, {"_target_": f"torch.optim.{name}", "lr": 0.1, "weight_decay": 0.0, "localisation_lr": 0.01}
    )
    rest, localisation = optimizer.param_groups
    assert (rest["lr"], localisation["lr"]) == (0.1, pytest.approx(0.001))
    assert {id(p) for p in localisation["params"]} == {id(p) for p in stn.localisation_parameters(model)}
    assert sorted(map(id, rest["params"] + localisation["params"])) == sorted(map(id, model.parameters()))
    before = [p.detach().clone() for p in localisation["params"]]
    model(torch.rand(4, 1, 28, 28))[0].sum().backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, localisation["params"], strict=True))
    alone = make_optimizer(
        cnn((1, 28, 28), width=4), {"_target_": "torch.optim.SGD", "lr": 0.1, "localisation_lr": 5}
    )
    assert [group["lr"] for group in alone.param_groups] == [0.1]


def test_pretrained_backbones_have_a_rate_of_their_own_where_it_is_given():
    model = ImageSTCNN(
        (3, 64, 64), num_classes=3, backbone=Backbone("resnet18", weights="none"), transform=stn.Translation(),
        num_transformers=2,
    )  # fmt: skip
    config = {"_target_": "torch.optim.SGD", "lr": 0.1, "localisation_lr": 0.5}
    for groups in (
        make_optimizer(model, config).param_groups,
        make_optimizer(model, {**config, "pretrained_lr": None}).param_groups,
    ):
        assert [group["lr"] for group in groups] == [0.1, 0.05]
    rest, localisation, pretrained = make_optimizer(model, {**config, "pretrained_lr": 0.1}).param_groups
    assert (rest["lr"], localisation["lr"], pretrained["lr"]) == (0.1, 0.05, pytest.approx(0.01))
    backbones = [*model.backbones, model.transformers.networks[0].localisation[0]]
    assert {id(p) for p in pretrained["params"]} == {id(p) for one in backbones for p in one.parameters()}
    assert {id(p) for p in rest["params"]} == {id(p) for p in model.classifier.parameters()}
    assert len(localisation["params"]) == 6  # the 1x1 convolution, a fully connected layer, theta's
    every = [p for group in (rest, localisation, pretrained) for p in group["params"]]
    assert sorted(map(id, every)) == sorted(map(id, model.parameters()))


def test_runs_on_digits_do_not_wait_for_torchvision():
    code = "import sys, experiments.engine.run; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_schedules_reach_the_optimiser_in_every_group():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": parameters[:1], "lr": 1.0}, {"params": parameters[1:], "lr": 0.1}]
    )
    schedule = one_cycle(optimizer, iterations=100, warmup=0.25, start=0.04, final=0.0)
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx([0.04, 0.004])
    assert rates[25] == pytest.approx([1.0, 0.1])
    assert max(r[0] for r in rates) == rates[25][0]
    # Half a cosine: midway between peak and end it is at half.
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)
    assert (rates[62][0] + rates[63][0]) / 2 == pytest.approx(0.5, abs=1e-3)


def test_the_papers_decay_divides_by_ten():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    node = {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 50, "gamma": 0.1}
    schedule, rates = build(node)(optimizer), []
    for _ in range(150):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [rates[i] for i in (0, 49, 50, 99, 100, 149)] == pytest.approx(
        [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainr=fast"], "Did you mean trainer?"),
        (
            ["trainer=fst"],
            "trainer=fst: there is no such trainer. Did you mean fast? "
            "Valid: fast, paper, paper_addition, paper_birds, smoke.",
        ),
        (["experiment=mnist_rts,mnist_x"], "experiment=mnist_x"),
        (
            ["experiment=mnist_addition", "trainer=paper"],
            "trainer=paper is not the paper's schedule of experiment=mnist_addition: leave it out, or write "
            "trainer=paper_addition.",
        ),
        (["-m", "experiment=mnist_r,cub_2st_224", "trainer=fast,paper"], "or write trainer=paper_birds."),
        (["trainer.iteratons=3"], "Did you mean trainer.iterations? Valid: trainer.batch_size"),
        (["trainer=fast", "dataset.distort.angle=3"], "dataset.distort.max_angle"),
        (["sed=1"], "Did you mean seed?"),
        (["width=64"], "Did you mean model.width?"),
        (["optimizer.learning_rate=1"], "Did you mean optimizer.lr? Valid: optimizer.fused"),
        (["pool=2"], "Did you mean model.pool"),
        (["experiment=own_images", "root=x"], "Did you mean dataset.root?"),
        (["experiment=cub_4st_448", "fast.lr=1"], "Did you mean schedules.fast.lr?"),
        (["images=t"], "images=t: experiment=mnist_rts has nothing to choose by images=."),
        (["experiment=colocalisation"], "does not run without images=: choose one of t, tc."),
        (["experiment=_birds"], "there is no such experiment. Valid: colocalisation"),
        (
            ["data_dir=a=b"],
            """quote the value, which has a character with a meaning of its own there: 'data_dir="a=b"'.""",
        ),
        (
            ["data_dir=/a,b"],
            """several values: add -m to run each of them, or quote the value to make it one: 'data_dir="/a,b"'.""",
        ),
        (["seed=range(0,3)"], "seed=range(0,3) gives several values: add -m to run each of them, or"),
        (["model=cnn,fcn"], "model=cnn,fcn gives several values: add -m to run each of them."),
        (["--config-dir", "/nowhere", "seed=1"], "--config-dir /nowhere is no folder"),
    ],
)
def test_misspelt_keys_and_values_get_the_valid_ones(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        explain_bad_overrides(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["experiment=mnist_r,mnist_rts", "model=cnn,st_cnn", "seed=0,1,2", "-m"],
        ["optimizer.lr=0.1", "+optimizer.nesterov=true", "hydra.verbose=true", "transform.control_points=[3,3]",
         "transform=tps"],
        ["--help"],
        ["seed=range(0,3)", "--multirun"],
        ["seed=0,1", "hydra.mode=MULTIRUN"],
        ["dataset.val_size='1,2'", "dataset.distort.scale=[0.7,1.2]"],
        ["-m", "model=glob(*)"],
        ["-sc", "install=bash"],
        ["+sweep=table1", "seed=0,1", "launcher=slurm", "hydra.launcher.partition=x"],
    ],
)  # fmt: skip
def test_good_overrides_pass(arguments):
    explain_bad_overrides(arguments)


def test_an_error_of_the_users_is_one_sentence_and_status_2(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "device=gpu", f"output_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == "device=gpu is not valid: choose one of auto, cpu, cuda."


def test_a_cycle_may_hold_its_peak():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = one_cycle(optimizer, iterations=100, warmup=0.1, hold=0.5), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[10:61] == [1.0] * 51 and rates[9] < 1 > rates[61]
    assert rates[80] == pytest.approx(0.5)  # half way down
