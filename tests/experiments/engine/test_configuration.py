"""Configurations composed in code equal the command line's and leave Hydra as they found it."""

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from experiments.engine.configuration import CONFIGS, composing, configuration


def test_hydras_state_is_left_as_it_was_found():
    GlobalHydra.instance().clear()
    configuration(["seed=3"])
    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        assert configuration(["seed=3"]).seed == 3
        assert GlobalHydra.instance().hydra is outer
        assert compose("train", ["seed=4"]).seed == 4  # and it still works


def test_many_in_one_context():
    with composing() as make:
        assert [make([f"seed={n}", "trainer=fast"]).seed for n in (0, 7)] == [0, 7]
