"""The old name of `llmhw_helpers.files`."""

from ..files import NotSaved, write_whole

__all__ = ["NotSaved", "write_whole"]
