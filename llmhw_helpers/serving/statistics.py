"""What an engine has done, in numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Statistics:
    """What an engine has done so far.

    Attributes:
        n_steps: passes through the model.
        n_read: tokens that went through it.
        n_written: tokens that came out.
        n_asked: tokens of the requests when they were let in.
        n_reused: of these, found in the cache or its folder.
        n_preempted: how often a request had to give back its blocks.
        most_blocks: blocks held at the same time, at most.
        waste: share of the held blocks' slots without a token, over all steps.
        n_spilled, n_reloaded: blocks that went to the folder, and that came back.
        n_missed: full blocks of prompts that were neither in the cache nor in the folder.
        n_damaged: of these, in a file that was no use.
    """

    n_steps: int
    n_read: int
    n_written: int
    n_asked: int
    n_reused: int
    n_preempted: int
    most_blocks: int
    waste: float
    n_spilled: int = 0
    n_reloaded: int = 0
    n_missed: int = 0
    n_damaged: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the tokens that were found."""
        return self.n_reused / max(self.n_asked, 1)
