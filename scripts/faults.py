"""Disturb runs and see how they end: `python scripts/faults.py --trials 200 --json results/faults.json`.

Kills, a full disk, damaged files, two processes at one run, a clock that is set back, data that vanish, W&B that fails.
"""

import argparse
import logging
import sys
from pathlib import Path

from experiments.analysis.fault_trials import planned, run
from experiments.engine.cli import one_sentence_errors


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trials", type=int, default=200, help="how many, of all kinds in turn (%(default)s)"
    )
    parser.add_argument("--only", default="*", help="names of trials, such as kill-3, with * (%(default)s)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the trials into FILE, and FILE's page"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    with one_sentence_errors():
        return 1 if run(planned(args.trials, args.only), args.json) else 0


if __name__ == "__main__":
    sys.exit(main())
