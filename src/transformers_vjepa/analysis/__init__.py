"""Questions to a trained model: read-outs, surprise, prediction errors, decoded features."""
