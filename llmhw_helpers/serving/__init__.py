"""Cached generation: the weights laid out for few rows, the cache, prefill and decode."""
