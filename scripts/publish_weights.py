"""Write the networks of published runs for `stn.models.pretrained`: `python scripts/publish_weights.py RUN ...`.

Each network is stored in half precision, loaded again and tested on its whole test set before it is listed in
weights/README.md.
"""

import argparse
import sys
from pathlib import Path

from experiments.analysis.weights import publish_weights
from experiments.engine.cli import one_sentence_errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="run directory of a published run")
    add("--weights", type=Path, default=Path("weights"), help="folder to write to (%(default)s)")
    add("--published", type=Path, default=Path("results/runs"), help="published results (%(default)s)")
    add("--data-dir", help="where data are (STN_DATA_DIR, or data/)")
    args = parser.parse_args()
    with one_sentence_errors():
        for line in publish_weights(args.runs, args.published, args.weights, {"data_dir": args.data_dir}):
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
