"""The light models: loaded by name, listed within a budget, measured."""
