"""From a corpus to batches: sources, order, streams, splits, labels."""
