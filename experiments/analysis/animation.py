"""The same test digits over the training of a network, as an animation: how a transformer learns to straighten them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from experiments.engine import checkpoint
from experiments.engine.build import UserError
from experiments.engine.result import Result
from experiments.engine.run import load_run
from experiments.report import embed, row_label, row_of
from experiments.report.tables import against_paper
from experiments.sections import TABLES

FRAMES = 48  # at most so many snapshots are shown
SIDE, GAP = 84, 6  # pixels: of an image, between images
TITLE, LEFT, LEGEND = 30, 56, 24  # pixels: above the images, left of them for names, below the classes
FINE = 2  # lines and letters are drawn so many times as large
SHADES = 64  # colours of the palette
SHOWN, LAST = 120, 3000  # milliseconds of a frame, and of the last one
MARK = "animation"  # of the place in a page


def animate(run_dir: Path, path: Path, pages: Sequence[Path] = (), *, data_dir: str | None = None) -> Result:
    """Draws the animation, writes the run's result beside it, and a caption into pages.

    Shown are the first test digit of each class with the predicted window (its upper edge thick), the transformer's
    output and the predicted class, after steps that lie closer together at the start, where most happens.

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
    for page in pages:
        if f"<!-- {MARK} -->\n" not in page.read_text(encoding="utf-8"):
            raise UserError(f"{page} has no place for the animation: <!-- {MARK} --> ... <!-- /{MARK} -->.")
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
    for step in _thinned(list(found)):
        model.load_state_dict(checkpoint.load(found[step], torch.device("cpu")))
        title = f"{name}: after {step:,} of {result.iterations:,} steps"
        if step == result.iterations:
            title += f", test error {result.metric('test_error'):.2f} %"
        frames.append(_frame(model.eval(), images, labels[firsts], title))
    path.parent.mkdir(parents=True, exist_ok=True)
    durations = [SHOWN] * (len(frames) - 1) + [LAST]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    result.write(path.with_suffix(".json"))
    for page in pages:
        embed(page, _caption(result, path, page, len(frames)), MARK)
    return result


def _thinned(steps: Sequence[int]) -> list[int]:
    """At most `FRAMES` of the steps with the first and the last, the gaps between them growing."""
    most = min(FRAMES, len(steps))
    return [steps[k] for k in sorted({round((i / (most - 1)) ** 2 * (len(steps) - 1)) for i in range(most)})]


@torch.inference_mode()
def _frame(model: nn.Module, images: Tensor, labels: Tensor, title: str) -> Image.Image:
    """One picture of the animation: inputs with windows, outputs below, predicted classes. PIL draws it in no time."""
    from experiments.sections.figures.drawing import (  # matplotlib: slow to import
        COLOURS,
        RED,
        WRONG,
        apply,
        outline,
        transformer_names,
    )

    predicted, aux, transforms = apply(model, images)
    rows, step = 1 + len(transforms), FINE * (SIDE + GAP)
    size = (len(images) * step + FINE * (LEFT + GAP), rows * step + FINE * (TITLE + 26 + LEGEND))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    draw.text((FINE * GAP, FINE * GAP), title, "black", _font(14))
    for row, name in enumerate(["input", *transformer_names(len(transforms))]):
        draw.text((FINE * LEFT, FINE * (TITLE + SIDE / 2) + row * step), name, "black", _font(12), "rm")
    x, y = float(FINE * GAP), size[1] - FINE * LEGEND / 2
    for k in range(len(transforms)):
        draw.line([(x, y), (x + FINE * 20, y)], COLOURS[k % len(COLOURS)], 8)
        whose = f"window of transformer {k + 1}, " if len(transforms) > 1 else "window of the transformer, "
        draw.text((x + FINE * 25, y), f"{whose}thick at its top", "black", _font(12), "lm")
        x += FINE * 40 + draw.textlength(f"{whose}thick at its top", _font(12))
    draw.text((x, y), f"{WRONG} misclassified", RED, _font(12), "lm")
    for i, image in enumerate(images):
        left, top = FINE * (LEFT + GAP) + i * step, FINE * TITLE
        window = _enlarged(image)
        pen = ImageDraw.Draw(window)
        for k, transform in enumerate(transforms):
            for n, line in enumerate(outline(transform, aux["theta"][i, k], image.shape[-2:])):
                points = (line + 0.5) * FINE * SIDE / image.shape[-1]
                pen.line(
                    [tuple(point) for point in points.tolist()], COLOURS[k % len(COLOURS)], 8 if n == 0 else 3
                )
            picture.paste(_enlarged(aux["warped"][i, k]), (left, top + (1 + k) * step))
        picture.paste(window, (left, top))
        answer, true = int(predicted[i]), int(labels[i])
        text, colour = (str(answer), "black") if answer == true else (f"{WRONG} {answer} (is {true})", RED)
        place = (left + FINE * SIDE / 2, top + rows * step)
        draw.text(place, text, colour, _font(14), "ma")
    small = picture.resize((size[0] // FINE, size[1] // FINE), Image.Resampling.LANCZOS)
    # The usual method would leave out the rare colour of wrong classes.
    return small.quantize(SHADES, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """That of the other figures, of a size in pixels of the animation; Pillow's own has no cross."""
    from matplotlib import get_data_path  # slow to import

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", FINE * size)


def _enlarged(image: Tensor) -> Image.Image:
    """An image (C, H, W) in [0, 1] in grey, of several channels their maximum."""
    grey = Image.fromarray((image.amax(0).clamp(0, 1) * 255).byte().numpy())
    return grey.resize((FINE * SIDE, FINE * SIDE), Image.Resampling.BICUBIC).convert("RGB")


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
        f"{result.device}, revision {result.revision}.*\n"
    )
