"""Exactly what travels to the Hub beside a model's weights: imports nothing of rd_hf but its siblings."""
