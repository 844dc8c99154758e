#!/usr/bin/env python
"""`vjepa convert_checkpoint`, as a file."""

from transformers_vjepa.commands.convert_checkpoint import main

if __name__ == "__main__":
    main()
