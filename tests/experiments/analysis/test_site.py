"""The pages of results on the site: their numbers against the published files, read anew, and the marks of verdicts."""

import json
import os
import re
import statistics
from collections import defaultdict
from pathlib import Path, PurePosixPath

import pytest

from experiments.analysis.claims import claims_page, read_benchmarks
from experiments.analysis.site import navigation, site_pages
from experiments.analysis.verdicts import judge
from experiments.engine.result import Result
from experiments.report import load_results, sheets
from experiments.report.pages import result_pages
from experiments.sections import CLAIMS, TABLES

RESULTS = Path(__file__).resolve().parents[3] / "results"
FILE = re.compile(r"\]\(<?([^)>]+)>?\)")
METRIC = {  # table -> the metric of its first column, and its decimals; all others: test_error, 2
    "colocalisation": ("test_localised", 0),
    "birds": ("test_accuracy", 1),
    "upright_classes": ("test_class0_pose_mean_degrees", 0),
}


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return load_results([RESULTS])


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return site_pages(RESULTS)


def rows(page: str) -> list[list[str]]:
    """The cells of all Markdown tables of a page."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]


def target(page: str, address: str) -> str:
    """Where a relative link of a page leads, from the folder of results."""
    return os.path.normpath(PurePosixPath(page).parent / address)


def test_every_run_is_on_the_page_of_its_cell_with_the_numbers_of_its_file(pages):
    seen = defaultdict(list)
    for name, page in pages.items():
        if name.count("/") != 2:
            continue
        metric, digits = METRIC.get(name.split("/")[1].split("-")[0], ("test_error", 2))
        values = []
        for row in (row for row in rows(page) if "[JSON]" in row[-1]):
            file = target(name, FILE.search(row[-1])[1])
            held = json.loads((RESULTS / file).read_text())
            seen[file].append(name)
            values.append(held["metrics"][metric])
            assert row[0] == str(held["seed"])
            assert row[1] == f"{values[-1]:.{digits}f}"
            width = "\N{EM DASH}" if held["width"] is None else str(held["width"])
            size = [width, f"{held['parameters']:,}", f"{held['iterations']:,}"]
            minutes = f"{held['wall_seconds'] / 60:.1f}"
            assert row[-7:-1] == [*size, minutes, held["device"], held["git_revision"][:7]]
        summary, *_ = (
            row for row in rows(page) if len(row) == 6 and row[1] != "mean" and ":--" not in row[0]
        )
        assert metric.endswith("degrees") or summary[1] == f"{statistics.fmean(values):.{digits}f}"
        assert summary[3].removesuffix("†") == str(len(values))
        assert ("\n- † " in page) == ("†" in summary[3]) == (len(values) < 3)
        if len(values) > 1 and not metric.endswith("degrees"):
            assert summary[2] == f"{statistics.stdev(values):.{digits}f}"
    published = {path.relative_to(RESULTS).as_posix() for path in (RESULTS / "runs").rglob("*.json")}
    assert set(seen) == published and len(published) > 60


def test_every_cell_of_every_table_leads_to_its_page(pages, results):
    expected = [
        (sheet, cell) for sheet in sheets(list(TABLES.values()), results) for cell in sheet.cells.values()
    ]
    for sheet, cell in expected:
        page = f"pages/{sheet.table.name}.md"
        linked = {
            target(page, FILE.search(text)[1])
            for row in rows(pages[page])
            for text in row
            if re.match(r"\[[-\d*]", text)
        }
        runs = {path.path.relative_to(RESULTS).as_posix() for path in cell.results}
        behind = [name for name in linked if runs <= {target(name, one) for one in FILE.findall(pages[name])}]
        assert len(behind) == 1, (page, runs)
        paper = sheet.paper(cell.row, cell.column)
        if paper is not None:
            assert f"| {paper:.{sheet.table.paper_decimals}f} |" in pages[behind[0]]


def test_every_picture_has_a_text_and_every_link_a_file(pages):
    for name, page in pages.items():
        assert "![](" not in page
        for address in FILE.findall(page):
            file = target(name, address.split("#")[0]) if address[0] != "#" else name
            assert file in pages or (RESULTS / file).is_file(), f"{name}: {address}"
    runs = [path.relative_to(RESULTS / "runs").with_suffix("") for path in (RESULTS / "runs").rglob("*.json")]
    published = {
        path.relative_to(RESULTS).as_posix()
        for run in runs
        for path in (RESULTS / "figures").glob(f"{run}-*.*")
    }
    shown = {
        target(name, one)
        for name, page in pages.items()
        if name.count("/") == 2
        for one in FILE.findall(page)
    }
    assert published <= shown
    drawn = {path.stem for path in (RESULTS / "details").rglob("*.npz")}
    assert sum("<polyline" in page for page in pages.values()) >= len(drawn) - 1  # two seeds share a page


def test_the_navigation_leads_to_each_table_and_the_gallery(pages, results):
    listed = {file: title for entry in navigation("results", pages) for title, file in entry.items()}
    shown = {sheet.table.name: sheet.table.title for sheet in sheets(list(TABLES.values()), results)}
    tables = {f"results/pages/{name}.md": title for name, title in shown.items()}
    assert listed == tables | {"results/pages/gallery.md": "Gallery"}


def test_the_marks_of_the_claims_are_the_verdicts(pages, results):
    signs = {"holds": ("holds", "✓"), "does not hold": ("fails", "✗"), "not decided": ("open", "?")}
    marks = {
        words: f'<span class="verdict {name}">{sign} {words}</span>' for words, (name, sign) in signs.items()
    }
    page = pages["claims.md"]
    overview = {row[0].split("]")[0]: row[3] for row in rows(page) if row[0].startswith("[")}
    counted = dict.fromkeys(marks, 0)
    benchmarks = read_benchmarks(RESULTS)
    for claim in CLAIMS:
        each = judge(claim, results, benchmarks)
        assert overview[f"[{claim.number}"].removeprefix("**").startswith(marks[each[-1].verdict])
        for one in each:
            counted[one.verdict] += 2  # in the overview and above the claim's parts
            for finding in one.findings:
                counted[finding.verdict] += 1
    assert {words: page.count(mark) for words, mark in marks.items()} == counted
    plain = re.sub(r'<span class="verdict \w+">. ([\w ]+)</span>', r"\1", page)
    assert plain == claims_page(CLAIMS, results, benchmarks)  # the site differs in the marks alone


def test_columns_that_are_metrics_of_the_same_runs_share_a_page():
    metrics = {"test_error": 0.7, "test_pose_mean_degrees": 1.5, "test_pose_concentration": 0.9}
    metrics |= {"test_pose_concentration_within": 0.95}
    run = Result(
        experiment="upright", dataset="mnist", model="st_cnn", transform="affine", trainer="fast", seed=0,
        metrics=metrics, width=1, parameters=1, iterations=9, wall_seconds=60.0, images_per_second=1.0,
        git_revision="0" * 40, git_dirty=False, versions={}, device="cpu", test_fingerprint="ab", config_hash="",
        config={"seed": 0, "dataset": {"distort": {"max_angle": 90}}}, path=Path("r/runs/upright/a-seed_0.json"),
    )  # fmt: skip
    pages = result_pages([TABLES["upright"]], [run], Path("r"))
    (cell,) = (name for name in pages if name.count("/") == 2)
    assert cell == "pages/upright-fast/90-to-90.md"
    assert [row[1] for row in rows(pages[cell])[1:5]] == ["0.70", "2", "0.90", "0.95"]  # whole degrees
    assert pages["pages/upright.md"].count(f"]({cell.removeprefix('pages/')})") == 4
