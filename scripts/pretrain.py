#!/usr/bin/env python
"""The command `vjepa pretrain` as a script."""

from transformers_vjepa.commands.pretrain import main

if __name__ == "__main__":
    main()
