"""Drawing, and nothing else: images, charts, style."""
