"""
Write index files for the two tasks of I-JEPA on CLEVR: Clevr/Count (number of objects, 8 classes) and Clevr/Dist
(distance of the closest object, 6 classes), as VTAB defines them.

    vjepa index_clevr CLEVR_v1.0 --output_dir clevr
    vjepa train_classifier --config probe_clevr_count_ijepa_vith14 --model CONVERTED --dataset clevr/count_train.csv \\
        --validation_dataset clevr/count_val.csv --output_dir outputs/clevr_count

CLEVR_v1.0 is the unpacked archive with the folders scenes and images. The command writes count_train.csv,
count_val.csv, dist_train.csv and dist_val.csv: the absolute path of each image, and its class.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from ..command_line.help_page import DefaultsFormatter
from ..command_line.parsing import user_errors
from ..data.clevr import index_clevr


def parse_arguments(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=DefaultsFormatter, allow_abbrev=False)
    parser.add_argument("root", metavar="CLEVR", type=Path, help="the folder CLEVR_v1.0")
    parser.add_argument("--output_dir", type=Path, default=Path("clevr"), help="folder of the index files")
    parser.add_argument(
        "--splits", nargs="+", choices=["train", "val"], default=["train", "val"], help="splits to write"
    )
    return parser.parse_args(argv)


@user_errors()
def run(argv: Sequence[str]) -> None:
    """Writes the files from a command line; an error that the user can correct ends it with one line."""
    arguments = parse_arguments(argv)
    for index in index_clevr(arguments.root, arguments.output_dir, splits=arguments.splits):
        classes = ", ".join(f"{name}: {number:,}" for name, number in index.classes.items())
        print(f"{index.path}   {sum(index.classes.values()):,} images ({classes})")


def main() -> None:
    run(sys.argv[1:])
