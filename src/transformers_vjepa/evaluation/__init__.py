"""Frozen evaluation and fine-tuning: features, probes, protocols, metrics and reports."""
