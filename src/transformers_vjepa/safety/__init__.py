"""Safety of files and logs: untrusted checkpoints, atomic writes, sanitised text."""
