"""
The command `vjepa`: `vjepa pretrain --help`, or `python -m transformers_vjepa pretrain --help`, or on several
processes `accelerate launch -m transformers_vjepa pretrain ...`.
"""

import sys
from importlib import import_module
from importlib.metadata import version

from .commands import COMMANDS


def usage() -> str:
    """The text of `vjepa --help`."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {purpose}" for name, purpose in COMMANDS.items())
    return f"""usage: vjepa COMMAND [options]

V-JEPA on your own videos. Several processes: accelerate launch -m transformers_vjepa COMMAND [options]

{commands}

vjepa COMMAND --help shows the options of a command."""


def main() -> None:
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
    elif name == "--version":
        print(f"transformers_vjepa {version('transformers_vjepa')}")
    elif name in COMMANDS:
        sys.argv = [f"vjepa {name}", *rest]
        import_module(f"{__package__}.commands.{name}").main()
    else:
        sys.exit(f"error: unknown command {name}: choose from {', '.join(COMMANDS)}")


if __name__ == "__main__":
    main()
