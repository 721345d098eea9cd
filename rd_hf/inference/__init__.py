"""Models at work: loading, evaluation, prediction."""
