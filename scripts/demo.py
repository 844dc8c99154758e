#!/usr/bin/env python
"""The command `vjepa demo` as a script."""

from transformers_vjepa.commands.demo import main

if __name__ == "__main__":
    main()
