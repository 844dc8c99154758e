"""Published checkpoints: convert to this layout and back, and check."""
