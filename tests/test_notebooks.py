"""Every notebook runs top to bottom without data or network, and stands in the repository with its outputs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MACHINE_PATH = re.compile(r"(?<![\w.])/(root|home|work|tmp|var|usr|opt|mnt|Users|private)(?=[/\s'\"):,]|$)")
LARGEST = 900_000  # bytes of one file

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def problems(notebook: Any) -> list[str]:
    """What is wrong with the outputs that a notebook was committed with."""
    cells = code_cells(notebook)
    outputs = [output for cell in cells for output in cell.outputs]
    found = []
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("not every cell was run once, in order")
    if any(output.output_type == "error" for output in outputs):
        found.append("a cell ended in an error")
    if any(output.get("name") == "stderr" for output in outputs):
        found.append("a cell wrote to stderr")
    if not any("image/png" in output.get("data", {}) for output in outputs):
        found.append("no image")
    found += [f"names a path: {text.strip()}" for text in texts(outputs) if MACHINE_PATH.search(text)]
    return found


def texts(outputs: list[Any]) -> list[str]:
    """All that the outputs say in words: what was printed, values, tables."""
    printed = [output.text for output in outputs if output.output_type == "stream"]
    shown = [data for output in outputs for data in output.get("data", {}).items()]
    return printed + [str(value) for kind, value in shown if not kind.startswith("image/png")]


def test_there_are_notebooks():
    assert NOTEBOOKS


@each_notebook
def test_committed_outputs_are_whole(path):
    assert problems(read(path)) == []


@each_notebook
def test_the_file_is_small_and_says_nothing_of_when_and_where_it_ran(path):
    notebook = read(path)
    assert path.stat().st_size < LARGEST
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.metadata for cell in notebook.cells if "execution" in cell.metadata] == []


def test_all_notebooks_begin_alike():
    assert len({code_cells(read(path))[0].source for path in NOTEBOOKS}) == 1


@pytest.mark.parametrize("installed", [True, False])
def test_the_first_cell_clones_and_installs_what_is_missing(installed, tmp_path, monkeypatch):
    source = code_cells(read(NOTEBOOKS[0]))[0].source
    assert 'REPOSITORY = ""' in source
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    ran: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda words, check: ran.append([str(word) for word in words]))
    with pytest.raises(AssertionError, match="no checkout"):
        exec(source, {})
    exec(source.replace('REPOSITORY = ""', 'REPOSITORY = "an address"'), {})
    checkout = str(tmp_path / "spatial-transformers")
    clone = ["git", "clone", "--depth", "1", "an address", checkout]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--editable", checkout]
    assert ran == ([clone] if installed else [clone, install])
    assert sys.path[0] == checkout


@pytest.mark.slow
@each_notebook
def test_runs_top_to_bottom(path, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    empty = tmp_path / "data"
    empty.mkdir()
    for name, value in {
        "STN_DATA_DIR": str(empty),  # no MNIST
        "STN_NOTEBOOKS": "small",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of the Python that runs the tests
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    before = sorted(path.parent.iterdir())
    notebook = read(path)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()  # raises CellExecutionError, with the cell and its traceback
    assert problems(notebook) == []
    assert sorted(path.parent.iterdir()) == before
    assert list(empty.iterdir()) == []


def made(*outputs: Any, count: int | None = 1) -> Any:
    cell = nbformat.v4.new_code_cell("1", execution_count=count, outputs=list(outputs))
    return nbformat.v4.new_notebook(cells=[cell])


IMAGE = nbformat.v4.new_output("display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"})


def stream(text: str, name: str = "stdout") -> Any:
    return nbformat.v4.new_output("stream", text=text, name=name)


def test_a_whole_notebook_has_no_problems():
    assert (
        problems(made(IMAGE, stream("error 3.1 %, 4/5, and/or, outputs/tmp/run, https://example.org/home")))
        == []
    )


@pytest.mark.parametrize(
    ("notebook", "problem"),
    [
        (made(IMAGE, count=None), "not every cell"),
        (made(IMAGE, count=2), "not every cell"),
        (made(stream("no picture")), "no image"),
        (made(IMAGE, nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])), "an error"),
        (made(IMAGE, stream("careful", "stderr")), "stderr"),
        (made(IMAGE, stream("saved to /tmp/x/last.pt")), "names a path"),
        (made(IMAGE, stream("in '/root'")), "names a path"),
        (
            made(
                IMAGE,
                nbformat.v4.new_output("execute_result", data={"text/plain": "PosixPath('/home/me/a')"}),
            ),
            "names a path",
        ),
    ],
)
def test_a_problem_is_found(notebook, problem):
    assert problem in " ".join(problems(notebook))
