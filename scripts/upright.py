"""Draw the poses of all runs of experiment=upright: `python scripts/upright.py results/runs/upright --out FILE`.

A column a range of rotations: the angles that the transformer leaves, and the mean output of each class.
"""

import argparse
import sys
from pathlib import Path

from experiments.analysis.upright import picture
from experiments.analysis.variants import variants
from experiments.engine.cli import one_sentence_errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("paths", nargs="+", type=Path, help="run directories, folders of them, results/runs/upright")
    add("--out", type=Path, default=Path("outputs/upright.png"), help="the picture (%(default)s)")
    args = parser.parse_args()
    with one_sentence_errors():
        print(picture(variants(args.paths), args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
