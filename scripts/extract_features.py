#!/usr/bin/env python
"""The command `vjepa extract_features` as a script."""

from transformers_vjepa.commands.extract_features import main

if __name__ == "__main__":
    main()
