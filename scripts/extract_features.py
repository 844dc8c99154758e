#!/usr/bin/env python
"""`vjepa extract_features`, as a file."""

from transformers_vjepa.commands.extract_features import main

if __name__ == "__main__":
    main()
