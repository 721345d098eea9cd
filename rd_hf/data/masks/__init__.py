"""Masks as people store them, as class indices of every pixel."""
