"""What commands take: one dataclass each for terminal, YAML and Python."""
