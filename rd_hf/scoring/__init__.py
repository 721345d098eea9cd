"""How good predictions are: metrics, intervals and plots."""
