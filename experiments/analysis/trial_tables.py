"""Which trials there are: their names and configurations."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """A configuration that is tried.

    Attributes:
        name: of its files.
        overrides: of train.py, in one line; the seed and the held-out digits are added.
    """

    name: str
    overrides: str


@dataclass(frozen=True)
class Trials:
    """A table of trials.

    Attributes:
        title: of its page.
        about: what it decides, a paragraph of Markdown.
        trials: its rows.
    """

    title: str
    about: str
    trials: tuple[Trial, ...]


_FIRST = "trainer=fast trainer.schedule.warmup=0.25 task.label_smoothing=0"  # the schedule that the search began with
_ADAMW = f"{_FIRST} optimizer=adamw"
_MUON = f"{_FIRST} optimizer.matrices.bf16=false"

# Schedules by name. The first screens; the others bring R to the paper's error, 2.1 with FCN and 1.2 with CNN.
_SCHEDULES = {
    "fcn_5000": f"model=fcn {_ADAMW} trainer.iterations=5000",
    "fcn_10000": f"model=fcn {_ADAMW} trainer.iterations=10000",
    "fcn_20000": f"model=fcn {_ADAMW} trainer.iterations=20000",
    "cnn_3000": f"model=cnn {_MUON} trainer.iterations=3000",
    "cnn_6000": f"model=cnn {_MUON} trainer.iterations=6000",
}
_P = {
    "p_digit_5": "dataset.distort.std=5.0",
    "p_digit_3.33": "dataset.distort.std=3.333",
    "p_digit_3": "dataset.distort.std=3.0",
    "p_digit_2.75": "dataset.distort.std=2.75",
    "p_digit_2.5": "dataset.distort.std=2.5",
    "p_image_5": "dataset.distort.corners=image dataset.distort.std=5.0",
    "p_image_3.33": "dataset.distort.corners=image dataset.distort.std=3.333",
    "p_image_3": "dataset.distort.corners=image dataset.distort.std=3.0",
    "p_radial_5": "dataset.distort.corners=radial dataset.distort.std=5.0",
    "p_radial_7.07": "dataset.distort.corners=radial dataset.distort.std=7.071",
}
_E = {
    "e_corners_1.5": "dataset.distort.std=1.5 dataset.distort.reach=1.0",
    "e_corners_2.1": "dataset.distort.std=2.1 dataset.distort.reach=1.0",
    "e_tiling_1.5": "dataset.distort.reach=0.75",
}


def _readings() -> Iterator[Trial]:
    for schedule, options in _SCHEDULES.items():
        yield Trial(f"r_{schedule}", f"experiment=mnist_r {options}")
        for experiment, readings in (("mnist_p", _P), ("mnist_e", _E)):
            for name, overrides in readings.items():
                yield Trial(f"{name}_{schedule}", f"experiment={experiment} {options} {overrides}")


_RTS = "experiment=mnist_rts model=st_cnn transform=affine"
_R = "experiment=mnist_r model=st_cnn transform=affine"
_SHORT = f"{_RTS} {_MUON} trainer.iterations=4000"
_BASE = f"{_SHORT} optimizer.matrices.lr=0.005"
_FULL = "trainer=fast trainer.schedule.warmup=0.1 task.label_smoothing=0.1"
_EXACT = f"{_FULL} optimizer.matrices.bf16=false +trainer.average=0.999"

_RECIPES = {
    "rts_4k_adamw": f"{_RTS} {_ADAMW} trainer.iterations=4000",
    "rts_4k_muon_0.01": f"{_SHORT} optimizer.matrices.lr=0.01",
    "rts_4k_muon_0.005": _BASE,
    "rts_4k_muon_0.003": f"{_SHORT} optimizer.matrices.lr=0.003",
    "rts_4k_muon_0.005_batch_128": f"{_BASE} trainer.batch_size=128 trainer.iterations=8000",
    "rts_4k_muon_0.005_smoothing": f"{_BASE} task.label_smoothing=0.1",
    "rts_4k_muon_0.005_warmup_0.1": f"{_BASE} trainer.schedule.warmup=0.1",
    "rts_4k_muon_0.005_decay_1": f"{_BASE} optimizer.matrices.weight_decay=1.0",
    "rts_4k_muon_0.005_warmup_0.1_smoothing_bf16": f"{_RTS} {_FULL} trainer.iterations=4000",
    "rts_12k_muon_0.005_warmup_0.1_smoothing": f"{_RTS} {_EXACT} trainer.iterations=12000",
    "r_fcn_5k_muon_0.005_bf16_warmup_0.1_smoothing": (
        f"experiment=mnist_r model=fcn {_FULL} trainer.iterations=5000 +trainer.average=0.999"
    ),
    "r_4k_muon_0.005_warmup_0.1_smoothing": f"{_R} {_EXACT} trainer.iterations=4000",
}

TABLES = {
    "readings": Trials(
        "Readings of P and E",
        "The paper's words leave open whose corners P moves and where E's grid lies. The networks without transformers "
        "decide: FCN (paper: R 2.1, P 3.1, E 3.2) and CNN (R 1.2, P 1.5, E 1.4), each at a schedule under which R is a "
        "check. p_digit, p_image, p_radial: which corners move; e_corners, e_tiling: where the 4x4 points lie; the "
        "number is the standard deviation in pixels of a 28-pixel side.",
        tuple(_readings()),
    ),
    "recipes": Trials(
        "Recipes",
        "ST-CNN affine, one thread: the optimiser and schedule with the lowest error for the same time. All recipes "
        "that were tried are here.",
        tuple(Trial(*row) for row in _RECIPES.items()),
    ),
}
