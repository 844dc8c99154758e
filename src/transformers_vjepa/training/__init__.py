"""What every training on a stream of clips needs: resume, signals, checkpoints, sharding."""
