"""The frozen teacher's features on disk."""
