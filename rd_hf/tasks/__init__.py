"""Tasks: one object per task knows its loss, its rows of statistics and its scores."""
