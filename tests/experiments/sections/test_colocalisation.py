"""The triplet loss and the overlap by hand, the frozen network, and a run from nothing to its pictures."""

import itertools
import math
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
from experiments.sections.colocalisation import (
    Colocalisation,
    embedding,
    iou,
    thin,
    triplet_hinge,
    unshift,
    within,
)
from stn import Attention
from stn.datasets.colocalisation import roll_each
from stn.models.colocalisation import Localiser
from stn.models.mnist import CNN

TINY = (
    "trainer=smoke", "dataset=digits", "model.width=4", "trainer.iterations=2", "trainer.batch_size=8",
    "trainer.log_every=2", "trainer.checkpoint_every=2", "trainer.val_every=2", "figures=false",
)  # fmt: skip


def described(experiment):
    return str([f"experiment={experiment}", "model=cnn", *TINY])


SMALL = [
    "experiment=colocalisation",
    "images=tc",
    "dataset.digit=0",
    f"task.embedding.overrides={described('mnist_r')}",
]


def test_the_triplet_hinge_by_hand():
    mine = torch.tensor([[0.0, 0], [1, 0], [0, 2]])
    random = torch.tensor([[[3.0, 0], [5, 0]], [[1, 1], [1, 3]], [[0, 2], [0, 9]]])
    # squared distances among mine: 01 1, 02 4, 12 5; to the nearest random crop: 9, 1, 0
    nearest = torch.tensor([0.0, 1 - 1 + 2, 4 - 0 + 2])
    torch.testing.assert_close(triplet_hinge(mine, random, 2.0, 1e-3), nearest, atol=1e-3, rtol=0)
    mean = torch.tensor([0.0, (1 + 5) / 2 - 1 + 2, (4 + 5) / 2 - 0 + 2])
    torch.testing.assert_close(triplet_hinge(mine, random, 2.0, 1e4), mean, atol=1e-3, rtol=0)
    between = -0.5 * math.log((math.exp(-1 / 0.5) + math.exp(-5 / 0.5)) / 2) - 1 + 2
    assert triplet_hinge(mine, random, 2.0, 0.5)[1].item() == pytest.approx(between)


def test_windows_are_moved_into_the_image_by_hand():
    at = torch.tensor([[0.5, 0.9, -0.2], [0.1, 0.5, 0.5], [3.0, 0.1, 0.0], [0.2, -0.9, 0.9]])
    at[:, 0] = at[:, 0].log()
    expected = torch.tensor([[0.5, 0.5, -0.2], [0.2, 0.5, 0.5], [1.0, 0.0, 0.0], [0.2, -0.8, 0.8]])
    torch.testing.assert_close(within(at, 0.2, 1.0), expected)


def test_a_window_in_a_shifted_image_shows_what_it_shows_in_the_image_as_it_was():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, 1, 84, 84, generator=generator)
    shift = torch.randint(-9, 10, (8, 2), generator=generator)
    centre = 0.4 * torch.rand(8, 2, generator=generator) - 0.2  # neither window reaches the border
    windows = torch.cat([torch.full((8, 1), 0.5), centre], 1)
    warp = Localiser((1, 84, 84), transform=Attention()).transformers.warp
    seen = warp(roll_each(images, shift), windows[:, None])
    torch.testing.assert_close(warp(images, unshift(windows, shift, 84)[:, None]), seen, atol=1e-4, rtol=0)
    # By hand: 21 of 84 pixels are 0.5. A window beyond one border comes in at the other, and into the image.
    at = torch.tensor([[0.2, 0.1, 0.7], [0.2, -0.7, 0.0], [0.5, 0.4, -0.4]])
    moved = unshift(at, torch.tensor([[21, -21], [21, 0], [-21, 21]]), 84)
    torch.testing.assert_close(moved, torch.tensor([[0.2, -0.4, -0.8], [0.2, 0.8, 0.0], [0.5, 0.5, -0.5]]))


def test_the_overlap_by_hand():
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 4, 4]])
    b = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6], [1, 1, 3, 3]])
    torch.testing.assert_close(iou(a, b), torch.tensor([1.0, 1 / 7, 0.0, 4 / 16]))


def frozen(seed):
    torch.manual_seed(seed)
    return CNN((1, 28, 28), width=4), SimpleNamespace(metric=lambda name: 2.5 + seed)


def windows_of(count, crops=3, seed=5):
    """Images (B, 1, 84, 84), shifts, and windows of random crops."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 84, 84, generator=generator)
    shift = torch.randint(-9, 10, (count, 2), generator=generator)
    side = 0.2 + 0.5 * torch.rand(count, crops, 1, generator=generator)
    return (
        images,
        shift,
        torch.cat([side, (1 - side) * (torch.rand(count, crops, 2, generator=generator) - 0.5)], 2),
    )


def test_the_loss_is_that_of_the_moved_windows_and_moves_the_localiser_alone():
    task = Colocalisation(
        frozen(0),
        margin=3.0,
        temperature=(0.2, 0.45),
        looks=2,
        smoothing=(0.2, 0.1),
        size_smoothing=(0.3, 0.1),
    )
    model = Localiser((1, 84, 84), transform=Attention(), start=0.5)
    task.at(model, 0.5)  # halfway, geometrically: the temperature is 0.3
    sigma = torch.tensor([0.03**0.5, 0.02**0.5, 0.02**0.5])
    images, shift, windows = windows_of(6)
    torch.manual_seed(3)
    loss, sums, aux = task.loss(model, (images, shift, windows))
    loss.backward()
    assert all(p.grad is None for p in task.network.parameters())
    assert aux["theta"].shape == (6, 1, 3) and aux["warped"].shape == (6, 1, 1, 28, 28)

    network = frozen(0)[0]

    def crop(theta):  # by torch's own grid and sampler
        matrix = torch.zeros(6, 2, 3)
        matrix[:, 0, 0] = matrix[:, 1, 1] = theta[:, 0]
        matrix[:, :, 2] = theta[:, 1:]
        grid = torch.nn.functional.affine_grid(matrix, (6, 1, 28, 28), align_corners=False)
        layers = network.activations(torch.nn.functional.grid_sample(images, grid, align_corners=False))
        return torch.cat(
            [layer.flatten(1) / layer.flatten(1).norm(dim=1, keepdim=True) for layer in layers], 1
        )

    with torch.no_grad():
        random = torch.stack([crop(windows[:, k]) for k in range(3)], 1)
        torch.manual_seed(3)
        hinges, slopes = [], torch.zeros(6, 3)
        for _ in range(2):
            noise = sigma * torch.randn(6, 3)
            both = []
            for sign in (1, -1):
                at = torch.tensor([math.log(0.5), 0, 0]) + sign * noise
                both.append(triplet_hinge(crop(unshift(within(at, 1 / 6, 1.0), shift, 84)), random, 3.0, 0.3))
            hinges += both
            slopes += (both[0] - both[1])[:, None] / 2 * noise / sigma**2 / 2
    assert loss.item() == pytest.approx(torch.stack(hinges).mean().item(), rel=1e-4)
    assert sums["images"] == 6 and sums["loss"].item() == pytest.approx(6 * loss.item())
    assert sums["violations"].item() == pytest.approx((torch.stack(hinges) > 0).float().mean(0).sum().item())
    # the size's bias moves all of them by d log s / d bias = (s - 1/6) (1 - s) / (5/6) / s
    by_hand = slopes[:, 0].mean().item() * (0.5 - 1 / 6) * 0.5 / (5 / 6) / 0.5
    assert model.head.size_bias.grad.item() == pytest.approx(by_hand, rel=1e-3)


def test_the_localiser_sees_shifted_images():
    model = Localiser((1, 84, 84), transform=Attention())
    torch.nn.init.normal_(model.head.weight)  # theta depends on the image
    images, shift, windows = windows_of(6)
    theta = Colocalisation(frozen(0)).loss(model, (images, shift, windows))[2]["theta"]
    torch.testing.assert_close(theta, model.transformers.locate(roll_each(images, shift)))
    assert (theta - model.transformers.locate(images)).abs().max() > 0.01


def test_the_estimate_is_the_gradient_of_the_smoothed_loss(monkeypatch):
    """Against finite differences, of a loss in which no image is compared with another: the ink in the window."""
    task = Colocalisation(frozen(0), looks=500, smoothing=(0.1, 0.1), size_smoothing=(0.1, 0.1))
    monkeypatch.setattr(task, "describe", lambda crops: crops.flatten(1))
    monkeypatch.setattr(colocalisation, "triplet_hinge", lambda mine, *_: mine.mean(1))
    task.at(None, 0.0)
    across = torch.linspace(-1, 1, 84)
    blob = torch.exp(-((across[:, None] - 0.1) ** 2 + 2 * (across - 0.2) ** 2) / 0.05)
    images, random = blob.expand(2, 1, 84, 84), windows_of(2, crops=1)[2]
    still = torch.zeros(2, 2, dtype=torch.int64)
    localiser = Localiser((1, 84, 84), transform=Attention())

    def loss(theta):
        transformers = SimpleNamespace(locate=lambda _: theta, warp=localiser.transformers.warp)
        torch.manual_seed(4)
        return task.loss(
            SimpleNamespace(transformers=transformers, head=localiser.head), (images, still, random)
        )[0]

    start = torch.tensor([[[0.4, 0.4, -0.1]], [[0.5, -0.1, 0.5]]])
    theta = start.clone().requires_grad_()
    loss(theta).backward()
    slopes = torch.zeros(2, 1, 3)
    for one in itertools.product(range(2), range(1), range(3)):
        step = torch.zeros(2, 1, 3)
        step[one] = 0.01
        slopes[one] = (loss(start + step) - loss(start - step)) / 0.02
    assert slopes.abs().min() > 0.01
    torch.testing.assert_close(theta.grad, slopes, rtol=0.1, atol=0.01)


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
        match=r"^task\.embedding needs a run .*: python train\.py experiment=mnist_r",
    ):
        run(cfg, overrides, SECTIONS)
    assert not list((tmp_path / "outputs").glob("mnist_r/*/seed_0/*"))  # building a task trains nothing
    run_required(cfg, SECTIONS)
    result = run(cfg, overrides, SECTIONS)
    assert {"test_localised", "test_iou", "test_embedding_error"} <= set(result.metrics)
    folder = next((tmp_path / "outputs" / "colocalisation").glob("*/seed_0"))
    assert (folder / "windows.png").stat().st_size > 1000 and (folder / "windows.gif").stat().st_size > 1000
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == [
        f"step_{step:06d}.pt" for step in (0, 2, 4)
    ]
    assert torch.load(folder / "predictions.pt", weights_only=True).shape[1] == 4
    assert len(list((tmp_path / "outputs").glob("mnist_r/*/seed_0/result.json"))) == 1
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
    assert one.folder == tmp_path / "outputs" / "mnist_r" / "cnn-fast" / "seed_0"
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


def test_loading_the_embedding_leaves_the_noise_to_the_seed(configure, tmp_path):
    run(configure("experiment=mnist_r", "model=cnn", *TINY))
    folder = next((tmp_path / "outputs" / "mnist_r").glob("*/seed_0"))
    noise = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        embedding(str(folder))
        noise.append(torch.randn(4))
    assert not torch.equal(*noise)


def test_an_embedding_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no result\.json: task\.embedding\.run_dir="):
        embedding(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": [0, 1]}, r"task\.temperature=\[0, 1\] is not valid: it is two numbers above 0"),
        ({"looks": 0}, r"task\.looks=0 is not valid"),
        ({"smoothing": None}, r"task\.smoothing=None is not valid"),
        ({"smoothing": [0.1]}, r"task\.smoothing=\[0\.1\] is not valid: it is two numbers"),
        ({"size_smoothing": [0.1, 0]}, r"task\.size_smoothing=\[0\.1, 0\] is not valid"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Colocalisation(frozen(0), **options)


def test_an_image_alone_is_refused():
    model = Localiser((1, 84, 84), transform=Attention())
    with pytest.raises(UserError, match="a batch needs two at least"):
        Colocalisation(frozen(0)).loss(model, windows_of(1))


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
