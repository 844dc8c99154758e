#!/usr/bin/env python
"""`vjepa demo`, as a file."""

from transformers_vjepa.commands.demo import main

if __name__ == "__main__":
    main()
