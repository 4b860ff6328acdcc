"""The same test digits over the training of a network, as an animation: how a transformer learns to straighten them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from experiments.engine import checkpoint
from experiments.engine.build import UserError
from experiments.engine.result import Result
from experiments.engine.run import load_run
from experiments.report import embed, row_label, row_of
from experiments.report.tables import against_paper
from experiments.sections import TABLES

FRAMES = 48  # at most so many snapshots are shown
WIDTH = 860  # pixels
SHADES = 48  # colours of the palette
SHOWN, LAST = 120, 3000  # milliseconds of a frame, and of the last one
MARK = "animation"  # of the place in a page


def animate(run_dir: Path, path: Path, pages: Iterable[Path] = (), *, data_dir: str | None = None) -> Result:
    """Draws the animation, writes the run's result beside it, and a caption into pages.

    Shown are the first test digit of each class with the predicted window, the transformer's output and the predicted
    class, after steps that lie closer together at the start, where most happens.

    Args:
        run_dir: a finished run of a classifier of digits with a transformer, trained with `trainer.snapshot_every`.
        path: the animation, *.gif, which is written; the result is written to *.json.
        pages: Markdown pages with lines `<!-- animation -->` and `<!-- /animation -->`, between which the picture and
            the caption are put.
        data_dir: where data sets are; None: where the run had them.

    Returns:
        The result of the run.

    Raises:
        UserError: where the run is not finished or kept no snapshots, its data are no digits, or a page has no place.
    """
    from experiments.sections.figures import examples  # matplotlib: slow to import

    found = checkpoint.snapshots(run_dir)
    if len(found) < 2 or not (run_dir / "result.json").exists():
        raise UserError(
            f"{run_dir} is no finished run with snapshots: train it to its end with trainer.snapshot_every=10."
        )
    result = Result.read(run_dir / "result.json")
    data, model, _ = load_run(run_dir, {"data_dir": data_dir})
    labels = data.test.labels.cpu()
    if not (hasattr(model, "transformers") and labels.ndim == 1 and hasattr(data.test, "images")):
        raise UserError(f"{run_dir} is no classifier of digits with a transformer: another run is needed.")
    firsts = [int((labels == one).nonzero()[0]) for one in labels.unique()]
    images = data.test.images[firsts].cpu().float() / 255
    name, frames = _name(result), []
    with TemporaryDirectory() as folder:
        for step in _thinned(list(found)):
            model.load_state_dict(checkpoint.load(found[step], torch.device("cpu")))
            title = f"{name}: after {step:,} of {result.iterations:,} steps"
            if step == result.iterations:
                title += f", test error {result.metric('test_error'):.2f} %"
            frames.append(
                _frame(
                    examples(model.eval(), images, labels[firsts], Path(folder) / "frame.png", title=title)
                )
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    durations = [SHOWN] * (len(frames) - 1) + [LAST]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    result.write(path.with_suffix(".json"))
    for page in pages:
        if not embed(page, _caption(result, path, page, len(frames)), MARK):
            raise UserError(f"{page} has no place for the animation: <!-- {MARK} --> ... <!-- /{MARK} -->.")
    return result


def _thinned(steps: Sequence[int]) -> list[int]:
    """At most `FRAMES` of the steps with the first and the last, the gaps between them growing."""
    most = min(FRAMES, len(steps))
    return [steps[k] for k in sorted({round((i / (most - 1)) ** 2 * (len(steps) - 1)) for i in range(most)})]


def _frame(path: Path) -> Image.Image:
    """A picture in the size and with the colours of the animation."""
    with Image.open(path) as picture:
        size = (WIDTH, round(picture.height * WIDTH / picture.width))
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return small.quantize(SHADES, dither=Image.Dither.NONE)


def _name(result: Result) -> str:
    """The network and the task, as in the table that they are in."""
    place = against_paper(TABLES.values(), result)
    return (
        f"{place['row']}, {place['column']}" if place else f"{row_label(row_of(result))}, {result.experiment}"
    )


def _caption(result: Result, path: Path, page: Path, frames: int) -> str:
    address = Path(os.path.relpath(path, page.parent)).as_posix()
    record = Path(os.path.relpath(path.with_suffix(".json"), page.parent)).as_posix()
    return (
        "![Test digits and their windows over the training, and the outputs of the transformer, which become upright]"
        f"(<{address}>)\n\n"
        f"*The first test digit of each class over a training of {_name(result)}, of {result.iterations:,} steps: "
        f"{frames} snapshots, closer together at the start. Test error at the end: "
        f"{result.metric('test_error'):.2f} %. [The run](<{record}>): schedule {result.trainer}, seed {result.seed}, "
        f"{result.device}, revision {result.revision}. It is in no table.*\n"
    )
