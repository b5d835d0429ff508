"""Metrics of captions, text retrieval and change decisions, from strings and NumPy arrays; no model is needed."""
