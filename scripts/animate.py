"""Show how a network learns to straighten digits: an animation of a finished run that kept snapshots.

python scripts/animate.py outputs/mnist_rts/st_cnn-affine-fast/seed_0 --out straightened.gif
"""

import argparse
import sys
from pathlib import Path

from experiments.analysis.animation import animate
from experiments.engine.cli import one_sentence_errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run directory, trained with trainer.snapshot_every=N")
    add("--out", type=Path, required=True, help="the animation, *.gif; the run's result is written beside it")
    add("--page", type=Path, action="append", default=[], help="a page to put it into, between its marks")
    add("--data-dir", help="where data sets are (as in training)")
    args = parser.parse_args()
    with one_sentence_errors():
        result = animate(args.run, args.out, args.page, data_dir=args.data_dir)
        print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB. {result.summary}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
