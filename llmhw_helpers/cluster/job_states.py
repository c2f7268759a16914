"""How a job stands, as Slurm and the local runner tell it, and as it is kept in a file."""

import math
from dataclasses import dataclass

DONE = (
    "COMPLETED",
    "FAILED",
    "TIMEOUT",
    "CANCELLED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
)


@dataclass(frozen=True)
class JobState:
    """How a job, or a task of an array, stands, in Slurm's words.

    Attributes:
        state: ``"PENDING"``, ``"RUNNING"``, or one of `DONE`.
        reason: why it waits or ended, as the scheduler says.
        submitted_at, started_at, ended_at: seconds since 1970; None where it has not come to that.
        exit_code: of the script.
        restarts: how often it was started again.
        nodes: their names.
    """

    job: str
    name: str
    state: str
    reason: str = ""
    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    restarts: int = 0
    nodes: str = ""

    @property
    def done(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in DONE


def state_of(said: object) -> JobState:
    """The state that a file holds, as `dataclasses.asdict` gives it.

    Raises:
        ValueError: it holds something else.

    >>> state_of({"job": "17", "name": "twin", "state": "COMPLETED"}).done
    True
    >>> state_of({"job": 17, "name": "twin", "state": "COMPLETED"})
    Traceback (most recent call last):
        ...
    ValueError: what is kept of a job is no state
    """
    try:
        state = JobState(**said)
        texts = (state.job, state.name, state.state, state.reason, state.nodes)
        moments = [at for at in (state.submitted_at, state.started_at, state.ended_at) if at is not None]
        sound = all(isinstance(text, str) for text in texts) and all(math.isfinite(at) for at in moments)
        sound = sound and type(state.restarts) is int and type(state.exit_code or 0) is int
    except (OverflowError, TypeError):
        sound = False
    if not sound:
        raise ValueError("what is kept of a job is no state")
    return state
