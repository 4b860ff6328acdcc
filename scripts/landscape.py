"""Measure the loss over theta: `python scripts/landscape.py outputs/mnist_r/.../seed_0 outputs/cub_2st_448/.../seed_0`.

Says whether the sampler's gradient agrees with the slope over larger steps; for birds, whether both point to the head.
"""

import argparse
import json
import sys
from pathlib import Path

from experiments.analysis.landscape import landscape_of_run, markdown, picture
from experiments.engine.cli import one_sentence_errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, help="run directories")
    add("--images", type=int, default=200, help="number of test images (%(default)s)")
    add("--spread", type=float, default=0.2, help="sigma of the windows' first offset (%(default)s)")
    add("--out", type=Path, default=Path("outputs/landscape"), help="folder of the files (%(default)s)")
    add("--data-dir", help="where data are (STN_DATA_DIR, or data/)")
    add("--cache-dir", default="outputs/cache", help="where decoded images are (%(default)s)")
    args = parser.parse_args()
    with one_sentence_errors():
        how = ({"data_dir": args.data_dir, "cache_dir": args.cache_dir}, args.images, args.spread)
        landscapes = [landscape_of_run(run, *how) for run in args.runs]
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "landscape.json").write_text(json.dumps(landscapes, indent=1) + "\n")
        (args.out / "landscape.md").write_text(markdown(landscapes))
        picture(landscapes, args.out / "landscape.png")
    print(f"{markdown(landscapes)}\nWritten: {args.out}/landscape.json, .md and .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
