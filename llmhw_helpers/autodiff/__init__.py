"""Reverse-mode differentiation on NumPy arrays: the engine in `tensor`, what networks are made of in `functions`."""
