"""Pretraining: masks, schedules, collapse checks and the trainer."""
