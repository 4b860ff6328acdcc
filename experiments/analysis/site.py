"""The pages that are made while the site is built: tables, cells, the gallery, and the claims with marks."""

from __future__ import annotations

from pathlib import Path

from experiments.analysis.claims import claims_page, read_benchmarks
from experiments.analysis.verdicts import FAILS, HOLDS, OPEN
from experiments.report import load_results
from experiments.report.pages import GALLERY, result_pages
from experiments.sections import CLAIMS, TABLES

CLAIMS_PAGE = "claims.md"
MARKS = {HOLDS: ("holds", "\N{CHECK MARK}"), FAILS: ("fails", "\N{BALLOT X}"), OPEN: ("open", "?")}


def site_pages(root: Path) -> dict[str, str]:
    """Every page of results that the site makes itself.

    Args:
        root: the folder of results.

    Returns:
        File below `root` -> Markdown. `claims.md` stands for the file of this name, with marks.
    """
    results = load_results([root])
    pages = result_pages(list(TABLES.values()), results, root)
    return pages | {CLAIMS_PAGE: claims_page(CLAIMS, results, read_benchmarks(root), mark)}


def navigation(root: str, pages: dict[str, str]) -> list[dict[str, str]]:
    """The pages of tables and the gallery as entries of the site's navigation.

    Args:
        root: the folder of results, from the root of the site.
        pages: of `site_pages`.
    """
    front = [
        name
        for name in pages
        if name.count("/") == 1 and not name.startswith(GALLERY.removesuffix(".md") + "-")
    ]
    heads = {name: next(line for line in pages[name].splitlines() if line.startswith("# ")) for name in front}
    return [{head.removeprefix("# "): f"{root}/{name}"} for name, head in heads.items()]


def mark(verdict: str) -> str:
    """A verdict with a sign and a class, by which a style sheet colours it."""
    name, sign = MARKS[verdict]
    return f'<span class="verdict {name}">{sign} {verdict}</span>'
