"""The drawing page of the built site in a real Chromium: what it computes and shows is what PyTorch computes.

`make test-page` builds the site and runs this. Nothing here needs a network.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.engine.configuration import configuration
from experiments.sections.figures.drawing import outline
from stn.datasets.distortions import warp_affine, warp_quad
from stn.models import pretrained, pretrained_names
from stn.sampler import sample
from stn.transforms import ThinPlateSpline

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site"
BUILT = SITE / "docs" / "draw"
TOLERANCE = 1e-4
FIRST, UPDATE = 2000, 50  # milliseconds that a first result and a further one may take
COLUMNS = ("mnist_r", "mnist_rts", "mnist_p", "mnist_e")
# A 7 and a 1 as shares of the pad.
SEVEN = [(0.25, 0.2), (0.5, 0.2), (0.75, 0.2), (0.66, 0.4), (0.56, 0.6), (0.46, 0.85)]
ONE = [(0.55, 0.15), (0.53, 0.4), (0.5, 0.65), (0.48, 0.85)]
ENDED = "!globalThis.stnDraw.busy && globalThis.stnDraw.shown"
# Twenty digits: each sample twice, as in training, and what the page computes of them.
TWENTY = """async () => {
  const settled = async () => { while (stnDraw.busy) await new Promise((resolve) => setTimeout(resolve)); };
  const found = [];
  for (let k = 0; k < 20; k++) {
    document.querySelectorAll(".draw-samples button")[k % 10].click();
    document.getElementById("draw-random").click();
    await settled();
    found.push(READ);
  }
  return found;
}"""
READ = """(() => {
  const { inputs, image, st, cnn, network, column, milliseconds } = stnDraw.shown;
  const plain = (outputs) => Object.fromEntries(Object.entries(outputs).map(
    ([name, { data, dims }]) => [name, [Array.from(data), Array.from(dims)]]));
  const given = Object.entries(inputs).map(([name, [data, dims]]) => [name, { data, dims }]);
  return { ...plain(Object.fromEntries(given)), image: plain({ image }).image, st: plain(st), cnn: cnn && plain(cnn),
    network: network.name, column: column.experiment, milliseconds,
    lines: [...document.querySelectorAll(".draw-input polyline")].map((line) => line.getAttribute("points")) };
})()"""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The site on a plain server of static files."""
    if not (BUILT / "onnxruntime.wasm.js").is_file():
        pytest.skip("the site has no networks: make page")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/docs/draw.html"
        server.shutdown()
        thread.join()


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """The page, which says nothing on the console and asks nobody else for anything."""
    with browser.new_context(**options) as context:
        page = context.new_page()
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_function(ENDED)
        yield page
        assert wrong == []
        own = (address.rpartition("/docs/")[0], "data:", "blob:")
        assert [url for url in asked if not url.startswith(own)] == []


@pytest.fixture(scope="module")
def page(browser, address) -> Iterator[Any]:
    with opened(browser, address, viewport={"width": 1280, "height": 900}) as page:
        yield page


def choose(page: Any, group: str, number: int) -> None:
    page.locator(f"#draw-{group} label").nth(number).click()
    page.wait_for_function(ENDED)


def tensor(told: list) -> torch.Tensor:
    values, shape = told
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


def close(found: list, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(tensor(found).flatten(), expected.detach().flatten(), rtol=0, atol=TOLERANCE)


def check(told: dict) -> None:
    """What the page computed of one digit, computed by PyTorch from the page's own pixels."""
    image = tensor(told["image"])
    network = pretrained(f"{told['column']}/st_cnn-{told['network']}")
    with torch.no_grad():
        logits, aux = network(image)
    theta, transform = aux["theta"][:, 0], network.transformers.transform
    close(told["st"]["logits"], logits)
    close(told["st"]["theta"], theta)
    close(told["st"]["warped"], aux["warped"])
    if told["cnn"]:
        close(told["cnn"]["logits"], pretrained(f"{told['column']}/cnn")(image)[0])
    else:
        assert f"{told['column']}/cnn" not in pretrained_names()
    side = image.shape[-1]
    expected = outline(transform, theta[0], (side, side))  # pixel centres are whole numbers there
    assert len(told["lines"]) == len(expected)
    for line, lines in zip(told["lines"], expected, strict=True):
        drawn = np.array([point.split(",") for point in line.split()], dtype=float)  # -1 to 1
        np.testing.assert_allclose(drawn, (lines + 0.5) * 2 / side - 1, rtol=0, atol=TOLERANCE)


def distorted(told: dict) -> torch.Tensor:
    """The image that the training makes of the page's digit with the page's random numbers."""
    digit, (angle, size, x, y) = tensor(told["images"]), tensor(told["pose"])[0]
    if told["column"] in ("mnist_r", "mnist_rts"):
        side = {"mnist_r": 28, "mnist_rts": 42}[told["column"]]
        return warp_affine(digit, side, angle[None], size[None], x[None], y[None])
    assert angle == x == y == 0
    shift = tensor(told["bend"]) * 2 / 28
    if told["column"] == "mnist_p":
        square = torch.tensor([[[-1.0, -1], [1, -1], [1, 1], [-1, 1]]])
        return warp_quad(digit, square * size + shift.reshape(1, 4, 2))
    spline = ThinPlateSpline((4, 4), reach=configuration(["experiment=mnist_e"]).dataset.distort.reach)
    return sample(digit, spline.grid((spline.identity() + shift) / size, (28, 28)))


def test_the_page_offers_what_the_folder_of_weights_holds(page):
    offered = page.evaluate(
        "stnDraw.columns.flatMap(({ networks, cnn }) => [...networks, ...(cnn ? [cnn] : [])].map(({ file }) => file))"
    )
    with_st = {name.partition("/")[0] for name in pretrained_names() if "/st_cnn-" in name}
    kept = [name for name in pretrained_names() if name.partition("/")[0] in with_st.intersection(COLUMNS)]
    assert sorted(offered) == [name for name in kept if name.partition("/")[2].startswith(("st_cnn-", "cnn"))]


def test_twenty_digits_of_every_network_are_those_of_pytorch(page):
    columns = page.evaluate("stnDraw.columns.map(({ networks }) => networks.length)")
    took = []
    for number, networks in enumerate(columns):
        choose(page, "columns", number)
        for network in range(networks):
            choose(page, "networks", network)
            twenty = page.evaluate(TWENTY.replace("READ", READ))
            assert len({str(told["image"]) for told in twenty}) == 20
            for told in twenty:
                check(told)
                close(told["image"], distorted(told))
                took.append(told["milliseconds"])
    print(
        f"an update takes {np.median(took):.1f} ms, {np.quantile(took, 0.95):.1f} ms at most in 95 % of cases"
    )
    assert np.median(took) < UPDATE


def stroke(page: Any, places: list[tuple[float, float]]) -> None:
    pad = page.locator(".draw-pad > canvas")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=5)
    page.mouse.up()
    page.wait_for_function(ENDED)


def test_a_digit_drawn_with_the_mouse_is_centred_straightened_and_recognised(page):
    choose(page, "columns", 0)
    page.locator("#draw").get_by_role("button", name="Clear").click()
    page.wait_for_function(ENDED)
    assert page.locator("#draw-st b").inner_text() == "–"  # of nothing, nothing is said
    page.get_by_role("button", name="Upright").click()
    stroke(page, SEVEN)
    for angle in (0, 50, -70):
        page.get_by_role("slider", name="Turn").fill(str(angle))
        page.wait_for_function(ENDED)
        told = page.evaluate(READ)
        check(told)
        close(told["image"], distorted(told))
        assert int(np.argmax(told["st"]["logits"][0])) == 7
        assert page.locator("#draw-st b").inner_text() == "7"
        assert tensor(told["pose"])[0, 0] == angle
    digit = tensor(told["images"])[0, 0]
    np.testing.assert_allclose(mass(digit), 14.5, atol=0.1)  # as MNIST's digits on average
    rows, columns = torch.nonzero(digit > 0.2, as_tuple=True)
    assert 19 <= max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) + 1 <= 21


def mass(image: torch.Tensor) -> list[float]:
    """The centre of mass (x, y) of an image (H, W), in pixels from its edge."""
    places = torch.arange(len(image)) + 0.5
    return [float((image.sum(axis) * places).sum() / image.sum()) for axis in (0, 1)]


def test_the_sliders_do_what_they_say(page):
    choose(page, "columns", 0)
    page.get_by_role("button", name="Upright").click()
    page.get_by_role("button", name="Sample digit 3").click()
    page.wait_for_function(ENDED)
    before = tensor(page.evaluate(READ)["image"])[0, 0]
    for name, value in (("Size", "0.8"), ("Move right", "3"), ("Move down", "-2")):
        page.get_by_role("slider", name=name).fill(value)
    page.wait_for_function(ENDED)
    after = tensor(page.evaluate(READ)["image"])[0, 0]
    expected = [14 + 0.8 * (place - 14) + shift for place, shift in zip(mass(before), (3, -2), strict=True)]
    np.testing.assert_allclose(mass(after), expected, atol=0.05)
    assert after.sum() / before.sum() == pytest.approx(0.8**2, abs=0.02)


def test_the_table_shows_the_probabilities(page):
    page.get_by_role("button", name="Sample digit 6").click()
    page.wait_for_function(ENDED)
    told = page.evaluate(READ)
    shown = page.locator("td.st span").all_inner_texts()
    expected = torch.softmax(tensor(told["st"]["logits"])[0], 0) * 100
    np.testing.assert_allclose([float(text) for text in shown], expected, atol=0.051)
    said = f"ST-CNN: {expected.argmax()}, {expected.max():.1f} percent."  # when the reader rests
    page.wait_for_function(
        "said => document.getElementById('draw-said').textContent.startsWith(said)", arg=said
    )


def test_the_keyboard_does_it_all_and_everything_has_a_name(page):
    page.get_by_role("button", name="Upright").click()  # the page is as the last test left it
    page.locator(".draw-samples button").first.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel") == "Sample digit 1"
    page.keyboard.press("Enter")
    page.wait_for_function(ENDED)
    assert page.locator("#draw-st b").inner_text() == "1"
    turn = page.get_by_role("slider", name="Turn")
    turn.fill("89")
    turn.press("ArrowRight")
    assert turn.get_attribute("aria-valuetext") == "90°"
    turn.press("ArrowRight")
    assert turn.get_attribute("aria-valuetext") == "91°, beyond the range of the training"
    turn.press("Enter")  # nothing is submitted
    page.locator("#draw-columns input").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(ENDED)
    assert page.evaluate("stnDraw.shown.column.letter") == page.evaluate("stnDraw.columns[1].letter")
    assert page.get_by_role("img", name="42 by 42 pixels").count() == 1
    for group in ("Digits of the training", "Spatial transformer", "Sample digits", "Distortion"):
        assert page.get_by_role("group", name=group).count() == 1
    named = (
        "[...document.querySelectorAll('#draw :is(button, input, [role=img])')].map((one) => Boolean(NAME))"
    )
    names = page.evaluate(named.replace("NAME", "one.ariaLabel || one.textContent || one.labels?.length"))
    assert len(names) > 20 and all(names)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_screen_in_light_and_dark(browser, address, width, scheme, tmp_path):
    with opened(
        browser, address, viewport={"width": width, "height": 844}, color_scheme=scheme, has_touch=True
    ) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background.removeprefix("rgb(").rstrip(")").split(",")[:3])) < 380) == (
            scheme == "dark"
        )
        box = page.locator(".draw-pad > canvas").bounding_box()
        assert box["width"] > 250 and box["width"] == pytest.approx(box["height"], abs=1)


def test_a_finger_draws_and_the_page_stays(browser, address):
    with opened(
        browser, address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    ) as page:
        pad = page.locator(".draw-pad > canvas")
        pad.scroll_into_view_if_needed()
        before, box = page.evaluate("scrollY"), pad.bounding_box()
        client = page.context.new_cdp_session(page)
        for x, y in ONE:
            at = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}]
            kind = "touchStart" if (x, y) == ONE[0] else "touchMove"
            client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})
        client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert page.evaluate("scrollY") == before
        page.get_by_role("button", name="Upright").click()
        page.wait_for_function(ENDED)
        assert page.locator("#draw-st b").inner_text() == "1"


def test_the_first_result_comes_soon_from_a_server_and_from_disk(browser, address):
    for where in (address, (SITE / "docs" / "draw.html").as_uri()):
        took = []
        for _ in range(3):
            with opened(browser, where) as page:
                took.append(page.evaluate("stnDraw.shown.at"))
                check(page.evaluate(READ))
        print(f"first result after {', '.join(f'{one:.0f}' for one in took)} ms from {where}")
        assert min(took) < FIRST
