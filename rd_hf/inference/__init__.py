"""Loads models, evaluates them, and predicts."""
