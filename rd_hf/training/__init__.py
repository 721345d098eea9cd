"""One run, from names to a folder."""
