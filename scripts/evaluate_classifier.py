#!/usr/bin/env python
"""`vjepa evaluate`, as a file."""

from transformers_vjepa.commands.evaluate import main

if __name__ == "__main__":
    main()
