"""Many processes, one model: ranks on torch.distributed, what they send to each other, and what that costs."""
