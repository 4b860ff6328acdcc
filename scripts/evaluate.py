"""Test a run again, finished or not: `python scripts/evaluate.py outputs/mnist_r/.../seed_0 [KEY=VALUE ...]`.

Without KEY=VALUE on its own data. Other data of the same kind:
  dataset.distort.max_angle=180   a value of the run's data, changed
  dataset=digits                  other images, as train.py chooses them
  experiment=mnist_e              the data of another experiment
How to measure: device=, threads=, trainer.eval_batch_size=, data_dir=, output_dir= (where the cache of images is).
The numbers are printed and written into evaluations/ of the run; result.json stays as it is.

With --figures the run's figures are drawn again instead, by the code as it is now: those of a run directory into it,
those of a published run, whose network is in weights/, into results/figures/:
  python scripts/evaluate.py --figures results/runs/mnist_rts/st_cnn-affine-fast-seed_0.json
"""

import argparse
import sys
from pathlib import Path

from experiments.analysis.evaluate import evaluate_run
from experiments.analysis.redraw import redraw
from experiments.engine.cli import one_sentence_errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("run", type=Path, help="run directory; with --figures also a published result")
    add("--figures", action="store_true", help="draw the figures of the run again, and do not test it")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="other data, or how to measure")
    args = parser.parse_intermixed_args()  # RUN --figures KEY=VALUE, in any order
    with one_sentence_errors():
        if args.figures:
            print(*redraw(args.run, args.overrides), sep="\n")
        else:
            evaluation, path = evaluate_run(args.run, args.overrides)
            print(f"{evaluation}\nwritten  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
