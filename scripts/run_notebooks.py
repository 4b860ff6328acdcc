"""Run notebooks from top to bottom and keep their outputs: `python scripts/run_notebooks.py notebooks/01_module.ipynb`.

`jupyter execute --inplace` does the same, and stores besides when each cell ran: every run would change the file.
"""

import argparse
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path, help="files, which are written anew")
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of the Python that runs this
    for path in parser.parse_args().notebooks:
        notebook = nbformat.read(path, as_version=4)
        place = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, timeout=1800, record_timing=False, resources=place).execute()
        nbformat.write(notebook, path)
        print(path)


if __name__ == "__main__":
    main()
