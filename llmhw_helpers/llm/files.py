"""The old name of `llmhw_helpers.files`."""

from ..files import NotSaved as NotSaved
from ..files import write_whole as write_whole
