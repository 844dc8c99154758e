"""The page in the browser that looks into a model."""
