"""Makes pages of a model's results that stand alone in one file of HTML."""
