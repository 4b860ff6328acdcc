"""Any choices and any numbers: a configuration trains a step, or is refused in one sentence. Never a traceback.

More of them: `python -m pytest tests/experiments/engine/test_any_configuration.py --hypothesis-profile long`.
"""

import math
import shutil

import pytest
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from experiments.engine.build import UserError
from experiments.engine.cli import explain_bad_overrides
from experiments.engine.configuration import composing, options
from experiments.engine.overrides import word
from experiments.engine.ranges import RANGES
from experiments.engine.run import run
from experiments.sections import SECTIONS

TINY = (
    "device=cpu", "threads=1", "wandb.mode=disabled", "figures=false", "trainer.iterations=1", "trainer.batch_size=4",
    "trainer.log_every=1", "trainer.checkpoint_every=1", "trainer.val_every=1", "trainer.eval_batch_size=400",
)  # fmt: skip
# One step of these would take long: they come with values that are refused, and with no large ones.
LARGE = (
    "trainer.",
    "model.width",
    "model.param_budget",
    "dataset.size",
    "dataset.count",
    "dataset.distort.canvas",
)
ODD = (-1, 0, 0.5, math.nan, math.inf, -math.inf, None, True, "text", "", [], [1, 2], [2, 1], ["a"], {"a": 1})
FITTING = (1, 2, 3, 0.1, 4, 10, 30, 1e-9, [0.5, 0.5], [3, 3])
GROUPS = ("model", "transform", "optimizer", "trainer")
with composing():
    CHOICES = {group: options(group) for group in (*GROUPS, "experiment")}
CHOICES["dataset"] = ["digits"]  # what needs no download
EXPERIMENTS = [one for one in CHOICES["experiment"] if one.startswith(("mnist", "upright"))]  # on digits


@st.composite
def overrides(draw) -> list[str]:
    """Of an experiment on digits: some choices, and some keys with values that fit or do not."""
    experiment = draw(st.sampled_from(EXPERIMENTS))
    words = [f"experiment={experiment}", "dataset=digits", "model.width=4"]
    for group in draw(st.lists(st.sampled_from(GROUPS), unique=True, max_size=2)):
        words.append(f"{group}={draw(st.sampled_from(CHOICES[group]))}")
    words += [*TINY, "trainer.schedule.iterations=1"][: draw(st.sampled_from([len(TINY), len(TINY) + 1]))]
    for key in draw(st.lists(st.sampled_from(sorted(RANGES)), unique=True, max_size=2)):
        values = ODD if key.startswith(LARGE) else (*ODD, *FITTING, *FITTING)
        words.append(word(key, draw(st.sampled_from(values))))
    return words


@settings(
    max_examples=max(settings().max_examples // 2, 5),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(words=overrides())
def test_any_configuration_trains_a_step_or_is_refused_in_one_sentence(words, tmp_path, capsys):
    with composing() as make:
        try:
            cfg = make([*words, f"output_dir={tmp_path}/outputs"])
        except (HydraException, OmegaConfBaseException):
            cfg = None
    if cfg is None:  # train.py asks this first
        with pytest.raises(SystemExit) as refused:
            explain_bad_overrides(words)
        assert refused.value.code == 2 and capsys.readouterr().err.count("\n") == 1
        return
    try:
        result = run(cfg, (), SECTIONS)
    except (UserError, FileNotFoundError, FloatingPointError) as error:
        said = str(error)
    else:
        said = f"{result.iterations} step"
    assert said and "\n" not in said
    shutil.rmtree(tmp_path / "outputs", ignore_errors=True)
