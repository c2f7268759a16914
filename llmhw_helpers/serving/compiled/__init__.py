"""A decode step as one compiled program: what PyTorch runs as five hundred."""
