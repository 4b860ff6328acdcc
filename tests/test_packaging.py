"""What the packaging files say of the same thing agrees: dependencies, pins, Python versions, the version."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import stn

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINNED = [Requirement(text) for text in PROJECT["dependencies"]]
PINNED += [Requirement(text) for name in ("dev", "export", "sweep") for text in EXTRAS[name]]
# Not pinned: what is only compared with, and what drives a browser.
DIRECT = [*PINNED, *map(Requirement, [*EXTRAS["bench"], *EXTRAS["page"]])]
PYTHONS = ("3.11", "3.12", "3.13")
LOCK_FILES = (
    "uv.lock",
    "poetry.lock",
    "pdm.lock",
    "Pipfile.lock",
    "pixi.lock",
    "conda-lock.yml",
    "pylock.toml",
)


def requirement_lines(text: str) -> list[str]:
    """The lines of a requirements file that say something to an installer, without comments."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def not_plain_pins(text: str) -> list[str]:
    """Lines that are anything but `name==version [; marker]`: options, addresses, paths, ranges, hashes."""
    return [
        line
        for line in requirement_lines(text)
        if not re.fullmatch(r"[\w.\-\[\]]+==[\w.+!]+( ; [^;@]+)?", line)
    ]


def pins(text: str, python: str, **environment: str) -> dict[str, list[str]]:
    """Name -> the versions that apply on Linux under that Python; more than one is a mistake."""
    target = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    found: dict[str, list[str]] = {}
    for line in requirement_lines(text):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(target | environment):
            version = next(iter(requirement.specifier)).version
            found.setdefault(canonicalize_name(requirement.name), []).append(version)
    return found


@pytest.fixture(scope="module")
def requirements() -> str:
    return (ROOT / "requirements.txt").read_text()


@pytest.fixture(scope="module")
def environment() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def test_requirements_are_pins_and_nothing_else(requirements):
    assert not_plain_pins(requirements) == []


@pytest.mark.parametrize(
    "line",
    [
        "--find-links wheels",
        "-f wheels",
        "--index-url https://example.org/simple",
        "--extra-index-url https://example.org/simple",
        "-e .",
        "-r other.txt",
        "torch @ file:///wheels/torch.whl",
        "torch @ https://example.org/torch.whl",
        "./wheels/torch.whl",
        "torch>=2.11",
        "torch",
    ],
)
def test_what_is_no_pin_is_found(line):
    assert not_plain_pins(f"numpy==2.4.6 ; python_version < '3.12'\n    # via torch\n{line}\n") == [line]


def test_requirements_name_no_address_even_in_comments(requirements):
    assert re.findall(r"://|(?<=\s)/\w+/\S+", requirements) == []


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_every_dependency_is_pinned_once_within_its_range(requirements, python, platform):
    found = pins(requirements, python, sys_platform=platform)
    assert {name: versions for name, versions in found.items() if len(versions) > 1} == {}
    for requirement in PINNED:
        versions = found.get(canonicalize_name(requirement.name), [])
        assert len(versions) == 1, f"{requirement.name} is not pinned in requirements.txt"
        assert requirement.specifier.contains(versions[0]), f"{requirement} does not allow {versions[0]}"


def test_a_pin_given_twice_is_seen_and_markers_are_heeded():
    text = "a==1 ; python_version < '3.12'\na==2 ; python_version >= '3.12'\nb==1\nB==2\n"
    assert pins(text, "3.11") == {"a": ["1"], "b": ["1", "2"]}


def test_every_dependency_has_a_lower_bound_and_is_named_once():
    for requirement in DIRECT:
        assert [part.operator for part in requirement.specifier] == [">="], str(requirement)
    names = [canonicalize_name(requirement.name) for requirement in DIRECT]
    assert len(names) == len(set(names))


def test_conda_environment_installs_the_pins(environment):
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-r requirements.txt", "-e ."]
    assert "pip" in environment["dependencies"]
    assert environment["channels"][0] == "conda-forge"
    assert set(environment["channels"]) <= {"conda-forge", "nodefaults"}
    assert environment["name"] == PROJECT["name"]


def test_conda_python_is_one_the_project_allows(environment):
    python = Requirement(next(d for d in environment["dependencies"] if str(d).startswith("python")))
    allowed = SpecifierSet(PROJECT["requires-python"])
    patches = [f"3.{minor}.{patch}" for minor in range(30) for patch in range(30)]
    offered = [version for version in patches if python.specifier.contains(version)]
    assert list(dict.fromkeys(version.rpartition(".")[0] for version in offered)) == list(PYTHONS)
    assert all(allowed.contains(version) for version in offered)
    assert not allowed.contains("3.10.19") and not allowed.contains("3.11.3")  # tarfile has no filters there


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == stn.__version__
    assert citation["license"] == PROJECT["license"]


def test_no_lock_file_is_tracked():
    """They record the registry of whoever made them; requirements.txt does not."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    assert [path for path in listing.stdout.splitlines() if Path(path).name in LOCK_FILES] == []
