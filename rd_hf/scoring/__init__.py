"""Metrics of predictions, their intervals and plots."""
