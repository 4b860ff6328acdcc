"""The built site in a real Chromium, opened from disk: every page, wide and narrow, and tables that are sorted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SITE = Path(__file__).resolve().parents[1] / "site"
TABLE = SITE / "results" / "pages" / "table1.html"
DRAW = SITE / "docs" / "draw.html"  # tested by test_draw.py

pytestmark = pytest.mark.browser
# Of a column: the numbers that its cells begin with, top down; null without one.
COLUMN = """column => [...document.querySelectorAll(".sortable tbody tr")].map(row => {
  const text = row.cells[column].textContent.trim();
  return column === 0 ? text : text === "\u2014" ? null : parseFloat(text);
})"""


def left(request: Any) -> bool:
    """Whether a request failed because the test went on to the next page: a busy machine has not loaded all by then."""
    return request.failure == "net::ERR_ABORTED"


@pytest.fixture
def page(browser) -> Iterator[Any]:
    """A page that says nothing on the console."""
    if not TABLE.is_file():
        pytest.skip("the site is not built: make docs")
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page, wrong = context.new_page(), []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: left(request) or wrong.append(request.url))
        yield page
        assert wrong == []


def test_a_reader_clicks_from_the_front_page_to_a_run(page):
    page.goto((SITE / "index.html").as_uri())
    page.get_by_role("link", name="Table 1, distorted MNIST").first.click()
    number = page.locator(".sortable tbody a").first
    shown = number.inner_text()
    number.click()
    assert page.locator("table").first.locator("td").nth(1).inner_text() == shown
    assert page.locator(".charts svg").count() == 2
    pictures = page.locator("article img")
    assert pictures.count() and all(one.get_attribute("alt") for one in pictures.all())
    assert page.get_by_role("link", name="JSON").first.get_attribute("href").endswith(".json")


@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_opens_and_nothing_sticks_out(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    pages = [path for path in sorted(SITE.rglob("*.html")) if path.name != "404.html" and path != DRAW]
    assert len(pages) > 80
    for path in pages:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width, path


def test_a_table_is_sorted_with_the_mouse_and_with_the_keyboard(page):
    page.goto(TABLE.as_uri())
    printed = page.evaluate(COLUMN, 0)
    column = page.locator(".sortable th").all_inner_texts().index("RTS")
    values = [one for one in page.evaluate(COLUMN, column) if one is not None]
    gaps = [None] * (len(printed) - len(values))
    head = page.locator(".sortable th").nth(column)
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert page.evaluate(COLUMN, column) == sorted(values) + gaps
    page.keyboard.press("Enter")  # the button has the focus
    assert head.get_attribute("aria-sort") == "descending"
    assert page.evaluate(COLUMN, column) == sorted(values, reverse=True) + gaps
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "none"
    paper = page.locator(".sortable th").nth(column + 1)
    assert paper.get_attribute("aria-sort") == "ascending"
    order = page.evaluate(COLUMN, column + 1)
    assert order == sorted(order)
    for _ in range(2):
        page.keyboard.press("Space")
    assert page.evaluate(COLUMN, 0) == printed  # a third time: the order of print


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_verdicts_differ_in_words_signs_and_colours_and_can_be_read(browser, page, scheme):
    with browser.new_context(color_scheme=scheme) as context:
        claims = context.new_page()
        claims.goto((SITE / "results" / "claims.html").as_uri())
        found = claims.evaluate(
            """() => Object.fromEntries([...document.querySelectorAll(".verdict")].map(one => [one.textContent,
                 [getComputedStyle(one).color, getComputedStyle(document.body).backgroundColor]]))"""
        )
    assert set(found) == {"✓ holds", "✗ does not hold", "? not decided"}
    assert len({colour for colour, _ in found.values()}) == 3
    assert all(contrast(*colours) >= 4.5 for colours in found.values())


def contrast(one: str, other: str) -> float:
    """The contrast of two colours such as rgb(0, 10, 20), by WCAG 2."""

    def luminance(colour: str) -> float:
        shares = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return sum(weight * s for weight, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)
