"""Unpack and check data that cannot be downloaded unasked: `python scripts/prepare_data.py cub --archive FILE`.

Without --archive it checks what is there, or says where to get it. `cub50` also copies the first 50 classes to a data
set of their own.
"""

import argparse
import sys
from pathlib import Path

from stn.datasets.bird_archives import install, install_classes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=["cub", "cub50"])
    parser.add_argument("--archive", type=Path, help="CUB_200_2011.tgz")
    parser.add_argument("--data-dir", type=Path, help="default: STN_DATA_DIR, or data/")
    args = parser.parse_args()
    try:
        root = install(args.archive, args.data_dir)
        if args.dataset == "cub50":
            root = install_classes(50, args.data_dir)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"All there: {root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
