"""Pages of the site that show results: one a table, one a cell of it, and the pictures by transform.

Every text is a function of the folder of results. Links are relative to `FOLDER`, where the pages stand.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.engine.result import Result
from experiments.report import details
from experiments.report.charts import line_chart
from experiments.report.grid import escape, markdown_table
from experiments.report.render import MISSING, markdown_notes
from experiments.report.tables import MIN_SEEDS, Cell, Sheet, Table, sheets

FOLDER = "pages"  # below the folder of results
GALLERY = f"{FOLDER}/gallery.md"
WIDE = "---\nhide: [toc]\n---\n"  # a table has the place of the table of contents
# The search finds the tables' pages, which lead to these.
UNSEARCHED = "---\nhide: [toc]\nsearch:\n  exclude: true\n---\n"
NAMES = {"affine3d": "Affine, 3-D", "tps": "Thin plate spline"}  # of transforms, as heads
PLAIN = "none"  # the page of the networks without a transformer

# Name of a picture -> what it shows, with and without a transformer; the most telling first.
CAPTIONS: dict[str, tuple[str, str]] = {
    "examples": (
        "Test digits with the predicted window (its upper edge thick), the transformer's output, the predicted class.",
        "Test digits and the predicted class.",
    ),
    "pairs": (
        "Both channels with the windows of all transformers, each transformer's output, and the predicted sum.",
        "Both channels and the predicted sum.",
    ),
    "crops": (
        "Test photographs with the windows of all transformers, each transformer's crop, and the predicted class.",
        "Test photographs and the predicted class.",
    ),
    "projections": (
        "Test volumes from the front, from above and from the side, before and after the transformer.",
        "Test volumes from the front, from above and from the side.",
    ),
    "windows": ("Windows over the training steps, one row a step; dotted: where the digit is.", ""),
    "class_means": ("Mean test image of each class, before and after the transformer.", ""),
    "poses": ("Angle, size and place of the predicted windows over the test set.", ""),
}


@dataclass(frozen=True)
class Place:
    """What one page is about: the runs of one network in a column; of a table of metrics, in all columns.

    Attributes:
        sheet: the table, of one schedule and data set.
        label: of the row.
        cells: the cells, in the order of the columns.
    """

    sheet: Sheet
    label: str
    cells: tuple[Cell, ...]

    @property
    def page(self) -> str:
        """The page's file, below the folder of results."""
        first = self.cells[0]
        column = "" if self.sheet.table.metrics else first.column
        words = [*(part or "" for part in first.row), first.overrides, column]
        slug = "-".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in words if word)
        return f"{FOLDER}/{self.sheet.stem}/{slug}.md"

    @property
    def name(self) -> str:
        """Such as `ST-CNN affine, RTS`."""
        table = self.sheet.table
        if table.metrics or len(table.columns) == 1:
            return self.label
        return f"{self.label}, {_head(table, self.cells[0].column)}"

    @property
    def runs(self) -> tuple[Result, ...]:
        """The runs, sorted by seed."""
        return self.cells[0].results


def places(sheet: Sheet) -> list[Place]:
    """The places of a sheet that have runs, in the order of print."""
    found = []
    for row, overrides, label in sheet.lines:
        cells = [sheet.cells.get((row, overrides, column)) for column in sheet.table.columns]
        filled = [cell for cell in cells if cell is not None]
        groups = [tuple(filled)] if sheet.table.metrics else [(cell,) for cell in filled]
        found += [Place(sheet, label, group) for group in groups if group]
    return found


def result_pages(tables: Sequence[Table], results: Iterable[Result], root: Path) -> dict[str, str]:
    """The pages of all tables that have runs, of their cells, and the gallery.

    Args:
        tables: in the order of print.
        results: published runs below `root`; those of the schedule `smoke` are left out.
        root: the folder of results, with figures/ and details/.

    Returns:
        File below `root` -> Markdown. The first ones are those of the tables, then the gallery's.
    """
    by_table: dict[str, list[Sheet]] = defaultdict(list)
    for sheet in sheets(tables, results):
        by_table[sheet.table.name].append(sheet)
    each = [place for group in by_table.values() for sheet in group for place in places(sheet)]
    pages = {f"{FOLDER}/{name}.md": _table_page(group, root) for name, group in by_table.items()}
    return pages | _gallery(each, root) | {place.page: _cell_page(place, root) for place in each}


def pictures(run: Result, root: Path) -> dict[str, list[Path]]:
    """Name -> files of the published pictures of a run, the most telling first; a picture may be an animation too."""
    folder, stem = root / "figures" / run.path.parent.name, run.path.stem
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob(f"{stem}-*"), reverse=True):  # .png before .gif
        found[path.stem.removeprefix(f"{stem}-")].append(path)
    order = [*CAPTIONS, *sorted(found)]
    return {name: found[name] for name in sorted(found, key=order.index)}


def _table_page(group: Sequence[Sheet], root: Path) -> str:
    table = group[0].table
    parts = [
        f"# {table.title}",
        "A number leads to its runs, learning curves and pictures. A head sorts the table.",
    ]
    for sheet in group:
        files = {
            name: root / "tables" / f"{sheet.stem}{end}" for name, end in (("CSV", ".csv"), ("LaTeX", ".tex"))
        }
        links = [_link(name, path, root / FOLDER) for name, path in files.items() if path.exists()]
        heading = sheet.heading.removeprefix(f"{table.title}: ")
        parts += [f"## {heading[0].upper()}{heading[1:]}", _sortable(_grid(sheet)), *_notes(sheet)]
        parts += [" · ".join(links)] if links else []
    return WIDE + _page(parts)


def _grid(sheet: Sheet) -> str:
    """Ours beside the paper's, the longer side of the table downwards."""
    table = sheet.table
    page = {id(cell): place.page for place in places(sheet) for cell in place.cells}
    lines = [(row, overrides) for row, overrides, _ in sheet.lines]
    names = [label for *_, label in sheet.lines]
    heads = [_head(table, column) for column in table.columns]
    keys = [[(*line, column) for column in table.columns] for line in lines]
    first = table.row_names[0]
    if len(heads) > len(names):
        names, heads, first = heads, names, table.column_name
        keys = [list(column) for column in zip(*keys, strict=True)]
    with_paper = sheet.comparable and bool(table.paper)
    rows = []
    for name, line in zip(names, keys, strict=True):
        texts = [name]
        for row, overrides, column in line:
            cell, paper = sheet.cells.get((row, overrides, column)), sheet.paper(row, column)
            texts.append(_ours(sheet, cell, paper, page[id(cell)]) if cell else MISSING)
            if with_paper:
                texts.append(MISSING if paper is None else f"{paper:.{table.paper_decimals}f}")
        rows.append(texts)
    heads = [
        first,
        *(head for name in heads for head in ([name, f"{name}: paper"] if with_paper else [name])),
    ]
    return markdown_table(heads, rows, "l" + "r" * (len(heads) - 1))


def _ours(sheet: Sheet, cell: Cell, paper: float | None, page: str) -> str:
    """A number that leads to its page, and below it the difference from the paper's."""
    mean, *deviation = sheet.ours(cell, "±").split(" ", 1)
    linked = (
        f"[{f'**{mean}**' if sheet.is_best(cell) else mean}]({Path(page).relative_to(FOLDER).as_posix()})"
    )
    below = "" if paper is None else f"<br><sub>{sheet.difference(cell, paper)}</sub>"
    return " ".join([linked, *deviation, f"({cell.n})"]) + ("†" if cell.n < MIN_SEEDS else "") + below


def _cell_page(place: Place, root: Path) -> str:
    sheet, table, here = place.sheet, place.sheet.table, root / Path(place.page).parent
    parts = [
        f"# {place.name}",
        f"A cell of [{escape(sheet.heading)}](../{table.name}.md).",
        _numbers(place),
        *_notes(sheet, place),
        "## Runs",
        _sortable(_runs(place, here)),
        "## Learning curves",
        _curves(place.runs),
        "## Pictures",
        *_pictures(place.name, place.runs, root, here),
    ]
    return UNSEARCHED + _page(parts)


def _numbers(place: Place) -> str:
    """Mean, deviation and seeds beside the paper's number: a line a column."""
    sheet, table = place.sheet, place.sheet.table
    rows = []
    for cell in place.cells:
        paper, digits = sheet.paper(cell.row, cell.column), table.digits(cell.column)
        rows.append(
            [
                table.columns[cell.column] if table.metrics else table.metric_label,
                f"{cell.mean:.{digits}f}",
                MISSING if cell.std is None else f"{cell.std:.{digits}f}",
                f"{cell.n}{'†' if cell.n < MIN_SEEDS else ''}",
                MISSING if paper is None else f"{paper:.{table.paper_decimals}f}",
                MISSING if paper is None else sheet.difference(cell, paper),
            ]
        )
    return markdown_table(
        ["", "mean", "standard deviation", "seeds", "paper", "ours minus paper"], rows, "lrrrrr"
    )


def _runs(place: Place, here: Path) -> str:
    """A line a run, with its file."""
    table = place.sheet.table
    measured = [table.columns[cell.column] if table.metrics else table.metric_label for cell in place.cells]
    heads = ["seed", *measured, "width", "parameters", "steps", "minutes", "machine", "revision", "run"]
    rows = [
        [
            str(run.seed),
            *(f"{run.metric(table.metric_of(c.column)):.{table.digits(c.column)}f}" for c in place.cells),
            MISSING if run.width is None else str(run.width),
            f"{run.parameters:,}",
            f"{run.iterations:,}",
            f"{run.wall_seconds / 60:.1f}",
            run.device,
            run.revision,
            _link("JSON", run.path, here),
        ]
        for run in place.runs
    ]
    return markdown_table(heads, rows, "l" + "r" * (len(measured) + 4) + "lll")


def _curves(runs: Sequence[Result]) -> str:
    """A chart for the loss and one for the error, a line a seed; in training, running means over the logged steps."""
    logs = {run.seed: details.curves(run.path) for run in runs}
    charts = []
    for ending, unit in details.DRAWN.items():
        lines = {
            f"seed {seed}, {what}": curve
            for seed, log in logs.items()
            for what, curve in details.drawn(log, ending).items()
        }
        if lines:
            last = "; ".join(
                f"{label}: {list(curve.values())[-1]:.3g} at the end" for label, curve in lines.items()
            )
            labels = "".join(f'<span class="line-{k}">{label}</span>' for k, label in enumerate(lines))
            chart = line_chart(lines, unit, f"{unit} over the training steps, logarithmic. {last}.")
            charts.append(f"<figure>{chart}<figcaption>{labels}</figcaption></figure>")
    if not charts:
        return "No log of these runs is kept in `results/details/`."
    note = f"Running means are over 1/{details.SMOOTH} of the training."
    return f'<div class="charts">{"".join(charts)}</div>\n\n*{note}*'


def _pictures(name: str, runs: Iterable[Result], root: Path, here: Path) -> list[str]:
    parts = []
    for run in runs:
        for picture, (first, *others) in pictures(run, root).items():
            also = "".join(f" {_link('As an animation', other, here)}." for other in others)
            parts += [
                _image(name, run, picture, first, here),
                f"*{_caption(run, picture)} Seed {run.seed}.*{also}",
            ]
    return parts or ["No picture of these runs is published."]


def _gallery(each: Sequence[Place], root: Path) -> dict[str, str]:
    """The gallery: a page a transform with the pictures of its runs by column, and a page that leads to all."""
    shown: dict[str, dict[str, list[tuple[Place, Result, str, Path]]]] = {}
    for place in each:
        for run in place.runs:
            for picture, (path, *_) in list(pictures(run, root).items())[:1]:
                table, first = place.sheet.table, place.cells[0]
                column = (
                    table.title
                    if len(table.columns) == 1 or table.metrics
                    else f"{table.title}: {_head(table, first.column)}"
                )
                shown.setdefault(run.transform or PLAIN, {}).setdefault(column, []).append(
                    (place, run, picture, path)
                )
    front = ["# Gallery", "Pictures of the published runs, by transform. Each leads to the page of its run."]
    pages, here = {}, root / FOLDER
    for transform, columns in sorted(shown.items(), key=lambda item: (item[0] == PLAIN, item[0])):
        title = (
            "Without a transformer" if transform == PLAIN else NAMES.get(transform, transform.capitalize())
        )
        parts = [f"# {title}"]
        for column, members in columns.items():
            parts.append(f"## {column}")
            for place, run, picture, path in members:
                parts += [
                    _image(place.name, run, picture, path, here),
                    f"*{_credit(place, run)} {_caption(run, picture)}*",
                ]
        file = f"{FOLDER}/gallery-{transform}.md"
        pages[file] = UNSEARCHED + _page(parts)
        place, run, picture, path = next(iter(columns.values()))[-1]  # of the table's last row: an ST-CNN
        count = sum(map(len, columns.values()))
        front += [
            f"## [{title}]({Path(file).name})",
            f"{count} run{'s' if count != 1 else ''}: {'; '.join(columns)}.",
            _image(place.name, run, picture, path, here),
        ]
    return {GALLERY: _page(front), **pages} if pages else {}


def _credit(place: Place, run: Result) -> str:
    """Whose picture it is, with the run's number."""
    table, cell = place.sheet.table, place.cells[0]
    value = f"{run.metric(table.metric_of(cell.column)):.{table.digits(cell.column)}f}"
    page = Path(place.page).relative_to(FOLDER).as_posix()
    schedule = f"schedule {run.trainer}, seed {run.seed}"
    return f"[{place.name}]({page}), {schedule}: {value} ({table.metric_label})."


def _image(name: str, run: Result, picture: str, path: Path, here: Path) -> str:
    text = f"{name}, seed {run.seed}: {_caption(run, picture)}".replace("[", "(").replace("]", ")")
    return f"![{text}](<{_relative(path, here)}>){{ loading=lazy }}"


def _caption(run: Result, picture: str) -> str:
    with_st, without = CAPTIONS.get(picture, (picture, picture))
    return with_st if run.transform else without


def _notes(sheet: Sheet, place: Place | None = None) -> list[str]:
    """The notes of a sheet; of a place in it, those that speak of it."""
    notes = [escape(note) for note in markdown_notes(sheet)]
    if place is not None:
        few = ("†",) if len(place.runs) < MIN_SEEDS else ()
        notes = [note for note in notes if note.startswith(("Paper:", "The dataset", *few))]
    return ["\n".join(f"- {note}" for note in notes)]


def _head(table: Table, column: str) -> str:
    """The head of a column; a bare number with what it counts, such as `digit 8`."""
    head = table.columns[column]
    return f"{table.column_name} {head}" if head.isdigit() else head


def _sortable(grid: str) -> str:
    return f'<div class="sortable" markdown="1">\n\n{grid}\n</div>'


def _link(text: str, path: Path, here: Path) -> str:
    return f"[{text}](<{_relative(path, here)}>)"


def _relative(path: Path, here: Path) -> str:
    return Path(os.path.relpath(path, here)).as_posix()


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
