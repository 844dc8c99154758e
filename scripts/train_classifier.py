#!/usr/bin/env python
"""`vjepa train_classifier`, as a file."""

from transformers_vjepa.commands.train_classifier import main

if __name__ == "__main__":
    main()
