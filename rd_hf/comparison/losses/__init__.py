"""The losses of other distillation methods."""
