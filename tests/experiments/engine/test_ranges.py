"""Every number in the configuration has a range, and says it before anything is built."""

import math

import pytest
from omegaconf import OmegaConf

from experiments.engine.build import UserError
from experiments.engine.configuration import composing, options
from experiments.engine.ranges import RANGES, Range, check_ranges

# Written elsewhere and only quoted, or about files that are received: no number of these decides by itself.
QUOTED = ("schedules.", "networks.", "transform.", "dataset.expected.", "wandb.")


def numbers(node, prefix=""):
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from numbers(value, f"{key}.")
        elif not key.startswith(QUOTED):
            listed = value if isinstance(value, list) else [value]
            if listed and all(isinstance(one, int | float) and not isinstance(one, bool) for one in listed):
                yield key


def test_every_number_in_configs_has_a_range_and_lies_in_it():
    further = {"colocalisation": ["images=tc", "dataset.digit=1"], "own_images": ["dataset.root=x"]}
    found = set()
    with composing() as make:
        words = [
            [f"experiment={experiment}", "trainer=fast", *further.get(experiment, [])]
            for experiment in options("experiment")
        ]
        words += [["experiment=cub_2st_224", f"trainer={trainer}"] for trainer in options("trainer")]
        words += [
            ["experiment=mnist_r", f"{group}={name}"]
            for group in ("model", "transform", "optimizer", "trainer")
            for name in options(group)
            if not name.startswith("image_")  # of photographs
        ]
        for one in words:
            cfg = make(one)
            if not OmegaConf.missing_keys(cfg):
                config = OmegaConf.to_container(cfg, resolve=True)
                check_ranges(config)
                found |= set(numbers(config))
    assert found <= RANGES.keys(), found - RANGES.keys()
    assert len(found) > 40


@pytest.mark.parametrize("key", RANGES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, "text", True, [1, 2, 3]])
def test_no_range_takes_what_is_no_number_of_its_kind(key, value):
    config = value
    for name in reversed(key.split(".")):
        config = {name: config}
    if value in RANGES[key]:  # a list of any length, an angle of -1
        assert (key, value) in (("trainer.schedule.milestones", [1, 2, 3]), ("dataset.distort.middle", -1))
        return
    with pytest.raises(UserError, match=rf"^{key}=.* is not valid: it is .*number"):
        check_ranges(config)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("seed", 2**64, "a whole number from 0 to 9.22337e+18"),
        ("threads", 0, "null or a whole number from 1"),
        ("trainer.schedule.warmup", 2, "a number from 0 to 1"),
        ("optimizer.lr", 0, "a number above 0"),
        ("task.label_smoothing", 1.0, "a number from 0 to below 1"),
        ("dataset.distort.scale", [2, 1], "a list of 2 numbers above 0, in rising order"),
        ("dataset.distort.scale", 2, "a list of 2 numbers above 0, in rising order"),
        ("trainer.iterations", 1.5, "a whole number from 1"),
        ("trainer.iterations", None, "a whole number from 1"),
        ("my.own", math.inf, "a finite number"),
    ],
)
def test_the_sentence_says_the_range(key, value, text):
    config = value
    for name in reversed(key.split(".")):
        config = {name: config}
    with pytest.raises(UserError) as refused:
        check_ranges(config)
    assert str(refused.value) == f"{key}={value} is not valid: it is {text}."


def test_a_range_takes_what_lies_in_it():
    assert 0 in Range(low=0, below=1) and 0.999 in Range(low=0, below=1) and 1 not in Range(low=0, below=1)
    assert None in Range(null=True) and None not in Range() and [1, 1] in Range(many=2, rising=True)
