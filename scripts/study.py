#!/usr/bin/env python
"""`vjepa study`, as a file."""

from transformers_vjepa.commands.study import main

if __name__ == "__main__":
    main()
