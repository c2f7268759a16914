"""Real ranks on torch.distributed: a model cut into pieces, and the bytes that this puts on the wire."""
