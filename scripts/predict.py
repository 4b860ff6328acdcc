"""Classify image files: `python scripts/predict.py outputs/mnist_r/.../seed_0 digits/ 7.png --out predictions`.

Writes predictions.csv (file, class, probability and theta of each image) and predictions.png (the first images with the
windows and crops of the transformers).
Photographs (birds, own images): scaled and cut to their middle square, as test images are.
Digits: white on black; --invert for dark ink on white. An image of the network's size (28 pixels a side; RTS 42, TC 60)
is taken as it is. Any other is scaled, its longer side to 28 pixels, and placed in the middle of a black square.
An image that cannot be read is named and left out; the exit status is then 1.
"""

import argparse
import sys
from pathlib import Path

from experiments.analysis.predict import predict_files
from experiments.engine.cli import one_sentence_errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("run", type=Path, help="run directory of a classifier of digits or photographs")
    add("images", type=Path, nargs="+", metavar="IMAGES", help="image files, or folders of them")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--invert", action="store_true", help="digits are dark on white")
    add("--shown", type=int, default=12, help="images in the picture (%(default)s)")
    add("--data-dir", help="where data are; only runs of earlier versions need them")
    add("--cache-dir", default="outputs/cache", help="where decoded images are; likewise (%(default)s)")
    args = parser.parse_args()
    with one_sentence_errors():
        where = {"data_dir": args.data_dir, "cache_dir": args.cache_dir}
        options = {"invert": args.invert, "shown": args.shown}
        said, left_out = predict_files(args.run, args.images, args.out, where, **options)
    print(*said, sep="\n")
    print(*left_out, sep="\n", file=sys.stderr)
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
