"""Runs one distillation, from names to the folder of a run."""
