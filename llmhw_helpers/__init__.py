"""Helpers of the course *LLM and hardware, hands on*: predict, build, measure.

Rooms, imported one way: ``widgets -> plots -> course -> {llm, measure} -> costs -> specs``.
"""

__version__ = "0.1.0"
