#!/usr/bin/env python
"""The command `vjepa convert_checkpoint` as a script."""

from transformers_vjepa.commands.convert_checkpoint import main

if __name__ == "__main__":
    main()
