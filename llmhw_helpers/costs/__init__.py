"""Predictions from facts. Standard library only: these files also run in a reader's browser."""
