"""Training on a stream of clips: resuming, signals, checkpoints, sharding, pushes to the Hub."""
