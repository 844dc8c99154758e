#!/usr/bin/env python
"""`vjepa pretrain`, as a file."""

from transformers_vjepa.commands.pretrain import main

if __name__ == "__main__":
    main()
