"""Measure invariance: `python scripts/invariance.py outputs/mnist_rts --out outputs/invariance`.

The error of trained networks against the angle, the scale and the shift of the test digits, one factor at a time, in
and beyond the training range (R, RTS). Writes invariance.json, .md and .png.
"""

import argparse
import json
import sys
from pathlib import Path

from experiments.analysis.invariance import markdown, measure, picture
from experiments.analysis.variants import names, variants
from experiments.engine.cli import one_sentence_errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add(
        "paths",
        nargs="+",
        type=Path,
        help="run directories, folders of them, published results with a network",
    )
    add("--images", type=int, help="number of test digits (all)")
    add("--out", type=Path, default=Path("outputs/invariance"), help="folder of the files (%(default)s)")
    add("--data-dir", help="where data are (STN_DATA_DIR, or data/)")
    args = parser.parse_args()
    with one_sentence_errors():
        where = {"data_dir": args.data_dir}
        found = variants(args.paths)
        told = zip(found, names(found), strict=True)
        measured = [measure(variant, where, args.images, name) for variant, name in told]
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "invariance.json").write_text(json.dumps(measured, indent=1) + "\n")
        (args.out / "invariance.md").write_text(markdown(measured))
        picture(measured, args.out / "invariance.png")
    print(f"{markdown(measured)}\nWritten: {args.out}/invariance.json, .md and .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
