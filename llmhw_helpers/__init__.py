"""Helpers of the course *LLM and hardware, hands on*: predict, build, measure.

Rooms, imported one way: ``widgets -> plots -> course -> {llm, measure} -> costs -> specs``.
"""

import os

# Before torch starts: its threads shall not spin for milliseconds while they wait for one another. On a core of one's
# own that changes nothing; where another kernel has the core, products took fifty times as long, and now twice.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
