"""
List recipes (for --config of the other commands) and configurations for `accelerate launch`, or copy them to edit.

    vjepa recipes                         # list all
    vjepa recipes vitl16 multi_node       # copy to ./vitl16.yaml and ./multi_node.yaml

--config takes the name of a recipe; accelerate needs the copied file.
"""

import itertools
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from ..command_line.parsing import LAUNCH_CONFIGS, RECIPES, user_errors


def first_sentence(file: Path) -> str:
    """The first sentence of the comment at the top of a file, which says what the file is for."""
    lines = itertools.takewhile(lambda line: line.startswith("# "), file.read_text(encoding="utf-8").splitlines())
    return " ".join(line.removeprefix("# ") for line in lines).partition(". ")[0].rstrip(".") + "."


def copy(names: list[str], folder: Path) -> list[Path]:
    """
    Copies shipped files into a folder.

    Raises:
        ValueError: no shipped file has this name.
        FileExistsError: the folder has a file of this name, which may have been edited.
    """
    files = {file.stem: file for shipped in (RECIPES, LAUNCH_CONFIGS) for file in sorted(shipped.glob("*.yaml"))}
    if unknown := [name for name in names if name not in files]:
        raise ValueError(f"unknown recipe {', '.join(unknown)}: choose from {', '.join(files)}")
    copies = {folder / files[name].name: files[name] for name in names}
    if present := [path for path in copies if path.exists()]:
        raise FileExistsError(f"{present[0]} exists and may have been edited: remove it, or choose another --to")
    for path, source in copies.items():
        path.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return list(copies)


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to copy; without a name, list all")
    parser.add_argument("--to", type=Path, default=Path(), metavar="FOLDER", help="folder of the copies (this folder)")
    arguments = parser.parse_args(sys.argv[1:])
    if arguments.names:
        with user_errors():
            for path in copy(arguments.names, arguments.to):
                print(path)
        return
    for folder, title in ((RECIPES, "recipes (--config NAME)"), (LAUNCH_CONFIGS, "accelerate launch --config_file")):
        print(f"\n{title}:")
        files = sorted(folder.glob("*.yaml"))
        width = max(len(file.stem) for file in files)
        for file in files:
            print(f"  {file.stem:{width}} {first_sentence(file)}")
