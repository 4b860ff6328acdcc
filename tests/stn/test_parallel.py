"""Parallel transformers: with a localisation network each, with one for all, and both in one."""

import copy

import pytest
import torch
from torch import nn

from stn import (
    Affine,
    FCTrunk,
    LocalisationNetwork,
    ParallelTransformers,
    Projective,
    SpatialTransformer,
    ThinPlateSpline,
    Translation,
    localisation_parameters,
    sample,
)

IMAGE = torch.rand(3, 2, 12, 14, generator=torch.Generator().manual_seed(0))
STARTS = torch.tensor([[-0.5, 0.25], [0.5, -0.25], [0.0, 0.0]])


def network(transform=None, starts=None):
    """With a head whose theta depends on the image, as after some training."""
    made = LocalisationNetwork(FCTrunk((2, 12, 14), hidden=(5,)), transform or Translation(), starts=starts)
    nn.init.normal_(made.head.weight, std=0.1)
    return made


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_one_network_each_is_as_many_single_transformers():
    networks = [network(Affine()) for _ in range(3)]
    parallel = ParallelTransformers(networks, Affine(), (5, 6), padding="border")
    warped, theta = parallel(IMAGE)
    assert parallel.count == 3 and warped.shape == (3, 3, 2, 5, 6) and theta.shape == (3, 3, 6)
    for k, each in enumerate(networks):
        single = SpatialTransformer(each.localisation, Affine(), (5, 6), padding="border", head=each.head)
        expected, pose = single(IMAGE)
        assert torch.equal(warped[:, k], expected) and torch.equal(theta[:, k], pose)
    assert not torch.equal(theta[:, 0], theta[:, 1])


def test_a_shared_network_speaks_for_all_in_order():
    shared = network(starts=STARTS)
    parallel = ParallelTransformers([shared], Translation(), (6, 7))
    warped, theta = parallel(IMAGE)
    assert parallel.count == 3 and shared.head.out_features == 6
    rows = shared.head(shared.localisation(IMAGE))
    for k in range(3):
        assert torch.equal(theta[:, k], rows[:, 2 * k : 2 * k + 2])
        assert torch.equal(warped[:, k], sample(IMAGE, Translation().grid(theta[:, k], (6, 7))))


def test_shared_and_own_networks_side_by_side():
    networks = [network(starts=STARTS[:2]), network()]
    parallel = ParallelTransformers(networks, Translation())
    _, theta = parallel(IMAGE)
    assert parallel.count == 3
    assert torch.equal(theta, torch.cat([each(IMAGE) for each in networks], 1))


def test_a_network_used_twice_and_a_wrapped_one_count():
    class Wrapper(nn.Module):  # as torch.compile makes one
        def __init__(self, inner):
            super().__init__()
            self.inner, self.count, self.transform = inner, inner.count, inner.transform

        def forward(self, image):
            return self.inner(image)

    one, other = network(), network()
    parallel = ParallelTransformers([one, one, Wrapper(other)], Translation())
    theta = parallel(IMAGE)[1]
    assert parallel.count == 3 and theta.shape == (3, 3, 2)
    torch.testing.assert_close(theta, torch.cat([one(IMAGE), one(IMAGE), other(IMAGE)], 1))


def test_it_starts_where_it_is_told():
    made = LocalisationNetwork(FCTrunk((2, 12, 14)), Translation(), starts=STARTS)
    assert torch.equal(made(IMAGE), STARTS.expand(3, 3, 2))
    assert torch.equal(LocalisationNetwork(FCTrunk((2, 12, 14)), Affine())(IMAGE)[1, 0], Affine().identity())


def test_the_two_halves_are_the_whole_and_seen_is_what_is_looked_at():
    parallel = ParallelTransformers([network(starts=STARTS)], Translation(), (6, 7))
    large = torch.rand(3, 2, 24, 28)
    warped, theta = parallel(large, IMAGE)
    assert torch.equal(theta, parallel.locate(IMAGE)) and torch.equal(warped, parallel.warp(large, theta))
    torch.testing.assert_close(parallel.warp(large, theta[:, :1]), warped[:, :1])


def test_gradients_reach_every_network():
    networks = [network(Affine()) for _ in range(2)]
    parallel = ParallelTransformers(networks, Affine())
    parallel(IMAGE)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parallel.parameters())


def test_parameters_come_network_by_network_trunk_before_head():
    networks = [network(starts=STARTS[:2]), network()]
    model = nn.Sequential(ParallelTransformers(networks, Translation()), nn.Linear(2, 2))
    expected = [p for each in networks for part in (each.localisation, each.head) for p in part.parameters()]
    found = localisation_parameters(model)
    assert [id(p) for p in found] == [id(p) for p in expected] and len(found) == 8


def test_an_empty_batch_gives_an_empty_batch():
    warped, theta = ParallelTransformers([network(starts=STARTS)], Translation())(IMAGE[:0])
    assert warped.shape == (0, 3, 2, 12, 14) and theta.shape == (0, 3, 2)


def test_a_copy_shares_nothing():
    parallel = ParallelTransformers([network(starts=STARTS), network()], Translation())
    twin = copy.deepcopy(parallel)
    assert torch.equal(twin(IMAGE)[0], parallel(IMAGE)[0]) and twin.count == 4
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in parallel.parameters()}


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least one localisation network"):
        ParallelTransformers([], Affine())
    for of_network, given in [
        (Projective(), ThinPlateSpline((2, 2))),  # both have 8 parameters
        (Translation(0.5), Translation(0.25)),
        (ThinPlateSpline(reach=0.75), ThinPlateSpline()),
    ]:
        with pytest.raises(ValueError, match=r"network 1 predicts theta of .*: give both the same transform"):
            ParallelTransformers([network(given), network(of_network)], given)
    with pytest.raises(ValueError, match=r"starts must be of shape \(K, 6\), not \(3, 2\)"):
        LocalisationNetwork(FCTrunk((2, 12, 14)), Affine(), starts=STARTS)
    with pytest.raises(ValueError, match="a head of your own sets its own start"):
        LocalisationNetwork(FCTrunk((2, 12, 14)), Translation(), starts=STARTS, head=nn.Linear(32, 2))
    with pytest.raises(ValueError, match="Flatten gives is unknown: set its `out_features`"):
        LocalisationNetwork(nn.Flatten(), Affine())
