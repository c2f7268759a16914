"""The old place of `llmhw_helpers.server.server`: scripts that name it still work."""

from importlib import import_module


def __getattr__(name: str) -> object:
    return getattr(import_module("llmhw_helpers.server.server"), name)
