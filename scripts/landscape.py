"""What theta's gradient says: `python scripts/landscape.py outputs/mnist_r/.../seed_0 outputs/cub_2st_448/.../seed_0`.

For each trained network: the loss's slope as its windows move by small and by large steps, and how far the small one,
which is what the sampler hands back, agrees with the large ones; for birds also how far each points to the head.
"""

import argparse
import json
import sys
from pathlib import Path

from experiments.analysis.landscape import landscape_of_run, markdown, picture
from experiments.engine.build import UserError


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run directories")
    parser.add_argument("--images", type=int, default=200, help="so many test images (%(default)s)")
    parser.add_argument(
        "--spread", type=float, default=0.2, help="how far the windows are moved first, sigma (%(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/landscape"), help="folder of the files (%(default)s)"
    )
    parser.add_argument("--data-dir", help="where data are (STN_DATA_DIR, or data/)")
    parser.add_argument(
        "--cache-dir", default="outputs/cache", help="where decoded photographs are (%(default)s)"
    )
    args = parser.parse_args()
    where = {"data_dir": args.data_dir, "cache_dir": args.cache_dir}
    try:
        found = [landscape_of_run(run, where, images=args.images, spread=args.spread) for run in args.runs]
    except (UserError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "landscape.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "landscape.md").write_text(markdown(found))
    print(markdown(found))
    print(f"Written: {args.out}/landscape.json, .md and {picture(found, args.out / 'landscape.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
