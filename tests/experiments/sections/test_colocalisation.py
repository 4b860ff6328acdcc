"""The triplet loss and the overlap by hand, the frozen network, and a run from nothing to its pictures."""

import json
from types import SimpleNamespace

import pytest
import torch

from experiments.engine.build import UserError
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
    assert all(p.grad is None for p in task.parameters())
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
    result = run(configure(*overrides), overrides, SECTIONS)
    assert {"test_localised", "test_iou", "test_embedding_error"} <= set(result.metrics)
    folder = next((tmp_path / "outputs" / "colocalisation").glob("*/seed_0"))
    assert (folder / "windows.png").stat().st_size > 1000 and (folder / "windows.gif").stat().st_size > 1000
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == [
        f"step_{step:06d}.pt" for step in (0, 2, 4)
    ]
    assert torch.load(folder / "predictions.pt", weights_only=True).shape[1] == 4
    # the network that describes crops was trained on the way, into a directory of its own
    assert len(list((tmp_path / "outputs").glob("mnist_p/*/seed_0/result.json"))) == 1
    assert "circumstances" not in json.dumps(result.config)


def test_an_embeddings_name_says_only_what_differs():
    overrides = [
        "experiment=mnist_r",
        "model=cnn",
        *(one for one in TINY if "dataset" not in one),
        "dataset=mnist",
    ]
    told = [one for one in overrides if colocalisation._matters(one, overrides)]
    assert "dataset=mnist" not in told and "model.width=4" in told
    assert colocalisation._quoted("it's") == r"'it\'s'" and colocalisation._quoted(None) == "null"


def test_the_same_numbers_whether_the_embedding_is_there_or_not(configure):
    first = run(configure(*SMALL), SMALL)
    again = run(configure(*SMALL, "output_dir=" + configure().output_dir + "/../again"), SMALL)
    assert again.metrics == first.metrics
    other = [*SMALL, "wandb.project=x"]
    third = run(
        configure(*other, "dataset.count=99"), [*other, "dataset.count=99"]
    )  # embeddings are there now
    assert third.metrics == first.metrics  # 99 is no limit: there are fewer


def test_an_embedding_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no result\.json: task\.embedding\.run_dir="):
        embedding([], run_dir=str(tmp_path))
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
