"""Labels as people write them, as class indices or vectors of 0 and 1."""
