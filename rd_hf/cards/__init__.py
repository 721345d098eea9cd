"""Model cards, and what a config says of a model's origin."""
