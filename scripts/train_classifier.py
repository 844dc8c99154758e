#!/usr/bin/env python
"""The command `vjepa train_classifier` as a script."""

from transformers_vjepa.commands.train_classifier import main

if __name__ == "__main__":
    main()
