#!/usr/bin/env python
"""The command `vjepa study` as a script."""

from transformers_vjepa.commands.study import main

if __name__ == "__main__":
    main()
