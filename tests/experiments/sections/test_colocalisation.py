"""The triplet loss and the overlap by hand, the frozen network, and a run from nothing to its pictures."""

from types import SimpleNamespace

import pytest
import torch

from experiments.engine.build import UserError
from experiments.engine.configuration import configuration
from experiments.engine.files import ROOT
from experiments.engine.identity import identity
from experiments.engine.required import required, run_required
from experiments.engine.result import Result
from experiments.engine.run import run
from experiments.sections import SECTIONS, colocalisation
from experiments.sections.colocalisation import Colocalisation, embedding, iou, thin, triplet_hinge
from stn import Attention
from stn.models.colocalisation import Localiser
from stn.models.mnist import CNN

TINY = (
    "trainer=smoke", "dataset=digits", "model.width=4", "trainer.iterations=2", "trainer.batch_size=8",
    "trainer.log_every=2", "trainer.checkpoint_every=2", "trainer.val_every=2", "figures=false",
)  # fmt: skip


def described(experiment):
    return str([f"experiment={experiment}", "model=cnn", *TINY])


NAME = (  # of the run of the CNN that describes crops
    "cnn-fast,optimizer=adamw,schedules.fast.iterations=5000,schedules.fast.label_smoothing=0,"
    "schedules.fast.warmup=0.25"
)
SMALL = [
    "experiment=colocalisation",
    "images=tc",
    "dataset.digit=0",
    f"task.embedding.overrides={described('mnist_p')}",
]


def test_the_triplet_hinge_by_hand():
    mine = torch.tensor([[0.0, 0], [1, 0], [0, 2]])
    random = torch.tensor([[3.0, 0], [1, 1], [0, 2]])
    # squared distances among mine: 01 1, 02 4, 12 5; to random: 9, 1, 0
    expected = torch.tensor([[0.0, 0, 0], [1 - 1 + 2, 0, 5 - 1 + 2], [4 - 0 + 2, 5 - 0 + 2, 0]])
    torch.testing.assert_close(triplet_hinge(mine, random, 2.0), expected)


def test_the_overlap_by_hand():
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 4, 4]])
    b = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6], [1, 1, 3, 3]])
    torch.testing.assert_close(iou(a, b), torch.tensor([1.0, 1 / 7, 0.0, 4 / 16]))


def frozen(seed):
    torch.manual_seed(seed)
    return CNN((1, 28, 28), width=4), SimpleNamespace(metric=lambda name: 2.5 + seed)


@pytest.mark.parametrize("free", [False, True])
def test_the_loss_is_the_mean_over_pairs_and_moves_the_localiser_alone(free):
    task = Colocalisation(frozen(0), margin=3.0, held_share=0.5, crop=0.25, crop_ratio=1.5)
    model = Localiser((1, 84, 84), transform=Attention(), start=0.5)
    task.at(model, 0.5 if free else 0.49)
    images, places = torch.rand(6, 1, 84, 84), 2 * torch.rand(6, 2) - 1
    loss, sums, aux = task.loss(model, (images, places))
    loss.backward()
    assert all(p.grad is None for p in task.network.parameters())
    head = model.head
    assert head.weight.grad[1:].abs().sum() > 0
    assert (head.size_bias.grad != 0) == free  # the size is held at first
    # the same by loops over pairs, with torch's own grid and sampler; the side is 1.5 * 0.5 or, held, 0.25
    side = 0.75 if free else 0.25
    theta = torch.zeros(6, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = (1 - side) * places
    grid = torch.nn.functional.affine_grid(theta, (6, 1, 28, 28), align_corners=False)
    others = torch.nn.functional.grid_sample(images, grid, align_corners=False)

    def e(crop):
        layers = frozen(0)[0].activations(crop[None])
        return torch.cat([layer.flatten() / layer.norm() for layer in layers])

    with torch.no_grad():
        mine = [e(crop) for crop in aux["warped"][:, 0]]
        random = [e(crop) for crop in others]
    terms = [
        max(0.0, float((mine[n] - mine[m]).square().sum() - (mine[n] - random[n]).square().sum()) + 3)
        for n in range(6)
        for m in range(6)
        if n != m
    ]
    assert loss.item() == pytest.approx(sum(terms) / 30, rel=1e-4)
    assert sums["images"] == 6 and sums["loss"].item() == pytest.approx(6 * loss.item())
    assert sums["violations"].item() == pytest.approx(6 * sum(t > 0 for t in terms) / 30)


def test_the_size_learns_from_the_random_crops_as_well():
    task = Colocalisation(frozen(0), held_share=0.0, crop_ratio=1.0)
    model = Localiser((1, 84, 84), transform=Attention(), start=0.5)
    smooth = torch.nn.functional.interpolate(torch.rand(6, 1, 4, 4), size=(84, 84), mode="bicubic")
    bias, batch = model.head.size_bias, (smooth, 2 * torch.rand(6, 2) - 1)
    task.at(model, 0.0)
    task.loss(model, batch)[0].backward()

    def loss(value):
        with torch.no_grad():
            bias.fill_(value)
            return task.loss(model, batch)[0].item()

    slope = (loss(0.005) - loss(-0.005)) / 0.01  # by finite differences
    assert bias.grad.item() == pytest.approx(slope, rel=0.05)


def test_what_is_found_is_counted():
    task = Colocalisation(frozen(0))
    model = Localiser((1, 84, 84), transform=Attention(), start=0.5)  # all windows: 21 to 63
    truth = torch.tensor([[21.0, 21, 63, 63], [21, 21, 63, 43], [21, 21, 63, 41], [0, 0, 10, 10]])
    metrics, windows = task.evaluate(model, [(torch.rand(4, 1, 84, 84), truth)])
    assert metrics["localised"] == 50.0 and metrics["images"] == 4  # 1 and 22 / 42; 20 / 42 is too little
    assert metrics["iou"] == pytest.approx((1 + 22 / 42 + 20 / 42 + 0) / 4)
    torch.testing.assert_close(windows, torch.tensor([[21.0, 21, 63, 63]]).expand(4, 4))


@pytest.mark.parametrize("images", ["t", "tc"])
def test_from_nothing_to_the_pictures(configure, images, tmp_path):
    overrides = [*SMALL, f"images={images}", "trainer.snapshot_every=2"]  # the last images= counts
    overrides.append("figures=true")
    cfg = configure(*overrides)
    with pytest.raises(
        UserError,
        match=r"^task\.embedding needs a run .*: python train\.py experiment=mnist_p",
    ):
        run(cfg, overrides, SECTIONS)
    assert not list((tmp_path / "outputs").glob("mnist_p/*/seed_0/*"))  # building a task trains nothing
    run_required(cfg, SECTIONS)
    result = run(cfg, overrides, SECTIONS)
    assert {"test_localised", "test_iou", "test_embedding_error"} <= set(result.metrics)
    folder = next((tmp_path / "outputs" / "colocalisation").glob("*/seed_0"))
    assert (folder / "windows.png").stat().st_size > 1000 and (folder / "windows.gif").stat().st_size > 1000
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == [
        f"step_{step:06d}.pt" for step in (0, 2, 4)
    ]
    assert torch.load(folder / "predictions.pt", weights_only=True).shape[1] == 4
    assert len(list((tmp_path / "outputs").glob("mnist_p/*/seed_0/result.json"))) == 1
    assert result.config["task"]["embedding"]["run_dir"] is None


def test_what_a_run_requires_and_what_its_directory_is_called(configure, tmp_path):
    words = [
        "experiment=colocalisation",
        "images=t",
        "dataset.digit=3",
        "dataset=mnist",
        "threads=2",
        "device=auto",
    ]
    (one,) = required(configure(*words, tiny=False))
    assert one.folder == tmp_path / "outputs" / "mnist_p_literal" / NAME / "seed_0"
    assert not one.finished
    made = configuration(one.overrides)
    assert (made.threads, made.output_dir) == (2, f"{tmp_path}/outputs")
    assert identity(made) == identity(one.cfg) and (made.model.name, made.trainer.name) == ("cnn", "fast")
    assert one.command == f"python train.py {' '.join(one.overrides)}"
    assert "wandb.mode=disabled" not in one.overrides and "device=auto" not in one.overrides
    assert required(configure(*words, "task.embedding.run_dir=there", tiny=False)) == []
    assert required(configure("experiment=mnist_r")) == []
    with pytest.raises(UserError, match=r"requires=model is not valid: model has no overrides and run_dir"):
        required(configure("experiment=mnist_r", "requires=[model]"))


def test_a_required_run_is_not_made_by_several_processes(configure, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="needs a run that is not finished: python train"):
        run_required(configure(*SMALL))


PUBLISHED = sorted((ROOT / "results" / "runs" / "colocalisation").glob("*.json"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_runs_are_what_the_configuration_makes_today(path):
    result = Result.read(path)
    images = "tc" if "images=tc" in path.stem else "t"
    words = [f"images={images}", f"dataset.digit={result.config['dataset']['digit']}"]
    assert identity(configuration(["experiment=colocalisation", *words])) == identity(result.config)


def test_the_same_numbers_whether_the_embedding_is_there_or_not(configure):
    def both(*more):
        cfg = configure(*SMALL, *more)
        run_required(cfg)
        return run(cfg, [*SMALL, *more])

    first = both()
    again = both("output_dir=" + configure().output_dir + "/../again")
    assert again.metrics == first.metrics
    third = both("wandb.project=x", "dataset.count=99")  # the embedding is there now
    assert third.metrics == first.metrics  # 99 is no limit: there are fewer


def test_an_embedding_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no result\.json: task\.embedding\.run_dir="):
        embedding(str(tmp_path))
    with pytest.raises(UserError, match=r"task\.held_share=2 is not valid"):
        Colocalisation(frozen(0), held_share=2)
    with pytest.raises(UserError, match=r"task\.crop=0 and task\.crop_ratio=1\.25 are not valid"):
        Colocalisation(frozen(0), crop=0)


def test_the_strip_shows_the_first_and_the_last_step():
    assert thin([0, 5], 7) == [0, 5]
    assert thin(list(range(0, 101, 5)), 5) == [0, 25, 50, 75, 100]


def test_the_papers_numbers_are_in_the_table():
    table = colocalisation.COLOCALISATION
    assert [table.paper["TC", "attention"][str(d)] for d in range(10)] == [
        81,
        82,
        88,
        75,
        94,
        84,
        93,
        85,
        89,
        87,
    ]
    assert not table.lower_is_better
