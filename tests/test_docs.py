"""The documentation builds strictly and opens from disk; the commands and the code in it work."""

import argparse
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.engine.cli import explain_bad_overrides
from experiments.engine.configuration import configuration

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "data" / "README.md",
    ROOT / "weights" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LONGEST_FRONT_PAGE = 150  # lines


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build --strict` of the repository, or a copy of it, at `root`."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


class Page(HTMLParser):
    """What an HTML page fetches by itself, what it links to, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.anchors.add(found["id"])
        if tag == "a" and "href" in found:
            self.linked.append(found["href"])
        elif tag == "link" and "canonical" not in found.get("rel", ""):
            self.fetched.append(found["href"])
        elif "src" in found:
            self.fetched.append(found["src"])


def unreachable(site: Path) -> list[str]:
    """What pages opened from disk cannot show: missing files and anchors, and what is fetched from elsewhere."""
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    wrong = []
    for path, page in pages.items():
        for address in [*page.fetched, *page.linked]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in page.fetched:
                    wrong.append(f"{path.relative_to(site)} fetches {address}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                wrong.append(f"{path.relative_to(site)}: no file {address}")
            elif target in pages and parts.fragment and unquote(parts.fragment) not in pages[target].anchors:
                wrong.append(f"{path.relative_to(site)}: no anchor {address}")
    return wrong


def test_the_site_opens_from_disk_without_a_network(site):
    assert (site / "index.html").is_file() and (site / "docs" / "running.html").is_file()
    assert unreachable(site) == []
    assert (site / "search" / "search_index.js").is_file()  # the search of pages opened from disk


def test_what_cannot_be_reached_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<script src="https://example.org/a.js"></script><link rel="stylesheet" href="//example.org/a.css">'
        '<a href="https://example.org/">fine</a><a href="b.html#there">fine</a><a href="#here" id="here">fine</a>'
        '<a href="b.html#nowhere"></a><img src="c%20d.png"><a href=""></a>'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p>')
    assert [text.split(" ", 1)[1] for text in unreachable(tmp_path)] == [
        "fetches https://example.org/a.js",
        "fetches //example.org/a.css",
        "no file c%20d.png",
        "no anchor b.html#nowhere",
    ]


def test_every_page_is_in_the_navigation():
    def leaves(node) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [
            leaf for child in (node.values() if isinstance(node, dict) else node) for leaf in leaves(child)
        ]

    listed = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(listed) == len(set(listed))
    assert {path.relative_to(ROOT).as_posix() for path in PAGES} <= set(listed)


def test_the_strict_build_refuses_broken_links_pictures_anchors_and_unknown_names(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "docs", copy / "docs")
    for name in (
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "CITATION.cff",
        "LICENSE",
        "mkdocs.yml",
        "data/README.md",
        "weights/README.md",
    ):
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    for name in ("results", "notebooks", "stn", "experiments"):
        (copy / name).symlink_to(ROOT / name)
    with open(copy / "docs" / "running.md", "a") as page:
        page.write("\n[a](nowhere.md) ![b](../results/figures/nowhere.png) [c](speed.md#nowhere)\n")
    built = build(copy, tmp_path / "site")
    assert built.returncode != 0
    for wrong in ("'nowhere.md'", "'../results/figures/nowhere.png'", "'speed.md#nowhere'"):
        assert wrong in built.stderr
    assert "Aborted with 3 warnings" in built.stderr + built.stdout
    shutil.copy(ROOT / "docs" / "running.md", copy / "docs")
    with open(copy / "docs" / "api.md", "a") as page:
        page.write("\n::: stn.transforms.Nowhere\n")
    built = build(copy, tmp_path / "site")
    assert built.returncode != 0 and "stn.transforms.Nowhere could not be found" in built.stderr


def test_the_front_page_ends():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= LONGEST_FRONT_PAGE
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert headings == [
        "Two commands",
        "Use the module",
        "Results",
        "Train, sweep, compare",
        "Where to go on",
    ]


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block in that language."""
    return [(path.name, m[2]) for path in PAGES for m in BLOCK.finditer(path.read_text()) if m[1] == language]


@pytest.mark.parametrize(("page", "code"), blocks("python"), ids=lambda value: value[:12])
def test_the_code_runs(page, code):
    names: dict = {}
    exec(compile(code, page, "exec"), names)
    # A comment such as `# (8, 1, 14, 14) and (8, 6); ...` states the shapes of the names that its line assigns.
    stated = 0
    for line in code.splitlines():
        if match := re.match(r"([\w, ]+) = .*# (\(\d[\d, ]*\)(?: and \(\d[\d, ]*\))*)", line):
            assigned = [names[name.strip()] for name in match[1].split(",")]
            shapes = [tuple(map(int, text.split(","))) for text in re.findall(r"\(([\d, ]+)\)", match[2])]
            assert [tuple(value.shape) for value in assigned] == shapes, line
            stated += 1
    assert stated, "no line states a shape"


def test_the_front_pages_transformer_starts_as_the_identity():
    ((_, code),) = [block for block in blocks("python") if block[0] == "README.md"]
    names: dict = {}
    exec(code, names)
    assert names["theta"].tolist() == [[1, 0, 0, 0, 1, 0]] * 8
    assert len(code.splitlines()) <= 9


def commands() -> list[tuple[str, str]]:
    """(page, command): the lines of shell blocks, and every `python ...`, `torchrun ...` or `make ...` in the text."""
    found = []
    for path in PAGES:
        text = path.read_text()
        for match in BLOCK.finditer(text):
            if match[1] == "sh":
                lines = re.sub(r"\\\n\s*", "", match[2]).splitlines()
                found += [(path.name, line.strip()) for line in lines if line.strip() and line[0] != "#"]
        inline = re.findall(r"(?<!`)`((?:python|torchrun|make) [^`]*)`", BLOCK.sub("", text))
        found += [(path.name, command) for command in inline if "..." not in command]
    return found


def words_of(command: str) -> list[str]:
    """The words of a command without comment and without variables set before it."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"\w+=.*", words[0], re.DOTALL):
        words = words[1:]
    return words


def check_training(arguments: list[str]) -> None:
    """As train.py would look at its command line; every sweep's first run is composed."""
    if "-sc" in arguments or "--help" in arguments:
        return
    if "--config-dir" in arguments:  # the configurations are the reader's own
        arguments = arguments[arguments.index("--config-dir") + 2 :]
        OverridesParser.create().parse_overrides(arguments)
        return
    overrides = [word for word in arguments if "=" in word]
    flags = [word for word in arguments if "=" not in word]
    assert flags in ([], ["-m"], ["--cfg", "hydra", "-p", "hydra.launcher"]), f"unknown: {flags}"
    explain_bad_overrides([*flags, *overrides])
    first = []
    for override in OverridesParser.create().parse_overrides(overrides):
        text = override.input_line or ""
        if override.is_sweep_override():
            text = f"{text.split('=')[0]}={next(iter(override.sweep_string_iterator()))}"
        if not override.key_or_group.startswith("hydra"):
            first.append(text)
    assert configuration(first).experiment


class Parsed(Exception):
    """A script has read its command line."""


def check_script(path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a script until its parser has read the arguments; a word that it refuses is SystemExit."""

    def stop(parser: argparse.ArgumentParser) -> None:
        _, unknown = parser.parse_known_args()
        assert [word for word in unknown if word.startswith("-")] == []  # else overrides among the options
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_intermixed_args", stop)
    monkeypatch.setattr(sys, "argv", [path.name, *arguments])
    with pytest.raises(Parsed):
        runpy.run_path(str(path), run_name="__main__")


def check(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = words_of(command)
    program, *rest = words
    if program == "torchrun":
        program, rest = "python", [word for word in rest if not word.startswith("--nproc")]
    if program == "python" and rest[0] == "-m":
        assert rest[1] in ("pytest", "http.server")
        assert all((ROOT / word).exists() for word in rest[2:] if "/" in word)
    elif program == "python" and rest[0] == "train.py":
        check_training(rest[1:])
    elif program == "python":
        assert rest[0].startswith("scripts/")
        check_script(ROOT / rest[0], rest[1:], monkeypatch)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert rest[0] in targets, f"make has no target {rest[0]}"
    elif program == "wandb":
        assert all((ROOT / word).exists() for word in rest if "/" in word)
    elif program == "eval":
        check(re.fullmatch(r"\$\((.*)\)", rest[0])[1], monkeypatch)
    else:
        assert program in ("pip", "source"), f"unknown program {program}"


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda value: value[:60])
def test_the_command_is_one_that_the_program_takes(page, command, monkeypatch):
    check(command, monkeypatch)


@pytest.mark.parametrize(
    "command",
    [
        "python train.py experiment=mnist_x",
        "python train.py -m model=cnn,st_cmn",
        "python train.py optimizer.learning=1",
        "python train.py --nothing",
        "python scripts/reproduce.py table9",
        "python scripts/reproduce.py table1 --nothing",
        "python scripts/nowhere.py",
        "make nothing",
        "wandb sweep scripts/wandb_sweeps/nowhere.yaml",
        "rm -rf outputs",
    ],
)
def test_a_command_that_is_not_is_found(command, monkeypatch):
    with pytest.raises((SystemExit, AssertionError, FileNotFoundError)):
        check(command, monkeypatch)
