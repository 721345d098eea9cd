"""Loads students by name, lists those within a budget, and measures them."""
