"""Exercises on paged caches and continuous batching (notebook 08)."""

import math

from ...costs.batching import decode_steps
from ...costs.paging import blocks_for
from ...serving.blocks import block_hashes
from ..grading import Exercise, Mistake
from ..managers import MANAGERS

TABLE = (7, 1, 4, 9)  # numbers that are neither in order nor their own places
SLOTS = [(position, TABLE, 4) for position in (0, 3, 4, 7, 10, 15)] + [(16, (5, 2), 16), (33, (8, 0, 3), 16)]
NEEDS = [(16, 1, 16), (16, 2, 16), (30, 3, 16), (5, 1, 16), (37, 64, 16), (100, 29, 8), (1, 1, 1)]
LENGTHS = [([16, 32], 16), ([1, 17, 40], 16), ([100, 37, 5, 64], 8), ([9], 1)]
SHARED = [(300, 320, 16), (304, 320, 16), (320, 320, 16), (15, 40, 16), (50, 50, 16), (64, 65, 32), (64, 64, 32)]
LOADS = [
    ([8, 2, 2, 8, 2, 2], 3, False),
    ([8, 2, 2, 8, 2, 2], 3, True),
    ([5, 1, 1, 1, 9, 4], 2, False),
    ([5, 1, 1, 1, 9, 4], 2, True),
    ([3, 3, 3, 3], 4, True),
    ([6, 1, 1, 4, 1, 3], 2, True),  # turn and turn about is neither static nor right
]
REFUSED = {  # a right manager that a test calls faulty
    "A": "Manager A is right, and is called faulty: does the test ask for more than is promised?",
    "B": "Manager B is right: which of its free blocks it gives out first is its own business.",
}
MISSED = {  # what to try, by the fault that a test lets through; the first one is told
    "C": "One of the faulty ones counts wrong at a block's edge: what does blocks_for say for 1, 4, 5 and 8 tokens?",
    "D": "One of the faulty ones forgets a second holder: share a block, release it once. Is it free?",
    "E": "One of the faulty ones shares a free block and leaves it free: release, share, then allocate all the others.",
    "F": "One of the faulty ones still finds what is gone: seal a block, release it, allocate all. What does find say?",
    "G": "One of the faulty ones takes a block back twice: release it again, and a ValueError has to come.",
    "H": "One of the faulty ones loses a block: release two at once, and count the free ones.",
}


def _says(name: str, faulty: bool, hint: str) -> Mistake:
    """What is said of manager `name` is wrong, whatever is said of the others."""
    return Mistake(hint, lambda make: faulty if make.name == name else ...)


def _in_turns(n_new, n_places, continuous):
    """As if places were given out in turns, not when they are free."""
    if not continuous:
        return decode_steps(n_new, n_places, False)
    return max(sum(n_new[place::n_places]) for place in range(n_places))


def _empty_share(lengths, block_size):
    held = sum(blocks_for(n, block_size) * block_size for n in lengths)
    return 1 - sum(lengths) / held


def _found(n_same, n_prompt, block_size):
    """By the engine's own rule: the hashes of two texts, of which the last token is read in any case."""
    known = block_hashes(range(n_same), block_size)
    asked = block_hashes(range(n_prompt - 1), block_size)
    return block_size * sum(1 for a, b in zip(known, asked, strict=False) if a == b)


EXERCISES = [
    Exercise(
        name="slot_of",
        cases=SLOTS,
        right=lambda position, table, size: [b * size + i for b in table for i in range(size)][position],
        rtol=1e-9,
        mistakes=[
            Mistake("That is the place within the block; where does the block begin?", lambda p, t, b: p % b),
            Mistake("That is where the block begins; where in it is the token?", lambda p, t, b: t[p // b] * b),
            Mistake("The block's number is looked up in the table.", lambda p, t, b: p),
            Mistake(
                "Each block has block_size slots, so it begins at block * block_size.",
                lambda p, t, b: t[p // b] + p % b,
            ),
            Mistake("That is the block; which slot in it?", lambda p, t, b: t[p // b]),
            Mistake(
                "Within the block, the place is counted from the block's own beginning.",
                lambda p, t, b: t[p // b] * b + p,
            ),
            Mistake(
                "Slots are numbered throughout: block and place make one number.", lambda p, t, b: (t[p // b], p % b)
            ),
        ],
    ),
    Exercise(
        name="blocks_needed",
        cases=NEEDS,
        right=lambda n_prompt, n_new, size: len({position // size for position in range(n_prompt + n_new - 1)}),
        rtol=1e-9,
        mistakes=[
            Mistake(
                "One too many at a block's edge: the last new token is never read, and 16 tokens fill one block of 16.",
                lambda p, n, b: math.ceil((p + n) / b),
            ),
            Mistake("A block that is filled in part is needed, too.", lambda p, n, b: (p + n - 1) // b),
            Mistake(
                "Prompt and answer go on in the same block: round up once.",
                lambda p, n, b: math.ceil(p / b) + math.ceil((n - 1) / b),
            ),
            Mistake(
                "Add up the tokens first, and round up once; and the last new token is never read.",
                lambda p, n, b: math.ceil(p / b) + math.ceil(n / b),
            ),
            Mistake("The answer needs slots, too.", lambda p, n, b: math.ceil(p / b)),
        ],
    ),
    Exercise(
        name="empty_share",
        cases=LENGTHS,
        right=_empty_share,
        rtol=1e-6,
        mistakes=[
            Mistake("That is the share of slots that hold a token.", lambda n, b: 1 - _empty_share(n, b)),
            Mistake(
                "Empty slots as a share of those that are *held*, not of the tokens.",
                lambda n, b: _empty_share(n, b) / (1 - _empty_share(n, b)),
            ),
            Mistake(
                "A sequence whose last block is full has no empty slots, not a whole block of them.",
                lambda n, b: 1 - sum(n) / sum((each // b + 1) * b for each in n),
            ),
            Mistake(
                "Two sequences never write into the same block: round up for each one.",
                lambda n, b: _empty_share([sum(n)], b),
            ),
            Mistake("That is a number of slots; which share of those held?", lambda n, b: sum(-each % b for each in n)),
            Mistake(
                "A long text has more slots than a short one: add up first, divide once, instead of a mean of shares.",
                lambda n, b: sum(_empty_share([each], b) for each in n) / len(n),
            ),
            Mistake(
                "A text may hold many blocks: divide by the slots of all of them, not of the last ones.",
                lambda n, b: sum(-each % b for each in n) / (len(n) * b),
            ),
        ],
    ),
    Exercise(
        name="found_tokens",
        cases=SHARED,
        right=_found,
        rtol=1e-9,
        mistakes=[
            Mistake("Only full blocks are found.", lambda s, p, b: min(s, p - 1)),
            Mistake("Only full blocks are found: round down.", lambda s, p, b: math.ceil(min(s, p - 1) / b) * b),
            Mistake(
                "If all of the prompt were found, nothing would be read, and there would be no logits to go on from.",
                lambda s, p, b: s // b * b,
            ),
            Mistake("That is blocks; how many tokens?", lambda s, p, b: min(s, p - 1) // b),
            Mistake("That is what is left to read.", lambda s, p, b: p - min(s, p - 1) // b * b),
        ],
    ),
    Exercise(
        name="n_steps",
        cases=LOADS,
        right=decode_steps,
        rtol=1e-9,
        mistakes=[
            Mistake(
                "In a static batch everybody waits for the longest: that is the continuous one.",
                lambda n, k, c: decode_steps(n, k, True),
            ),
            Mistake(
                "In a continuous batch a place is given out again at once: that is the static one.",
                lambda n, k, c: decode_steps(n, k, False),
            ),
            Mistake(
                "That would be so if an answer could be cut up and shared out among the places.",
                lambda n, k, c: math.ceil(sum(n) / k) if c else decode_steps(n, k, False),
            ),
            Mistake("In a continuous batch the next one takes the place that is free first.", _in_turns),
            Mistake(
                "The queue is served in the order of arrival: nobody knows who will be the longest.",
                lambda n, k, c: decode_steps(sorted(n, reverse=True), k, c),
            ),
            Mistake(
                "The queue is served in the order of arrival: nobody knows who will be the shortest.",
                lambda n, k, c: decode_steps(sorted(n), k, c),
            ),
            Mistake("All places write in the same step.", lambda n, k, c: sum(n)),
            Mistake("There are fewer places than answers.", lambda n, k, c: max(n)),
        ],
    ),
    Exercise(
        name="is_faulty",
        cases=[(make,) for make in MANAGERS],
        right=lambda make: make.faulty,
        mistakes=[
            Mistake("It says that every manager is right; six of those it was tried on are not.", lambda make: False),
            Mistake("It calls every manager faulty; two of those it was tried on are right.", lambda make: True),
            *(_says(name, True, hint) for name, hint in REFUSED.items()),
            *(_says(name, False, hint) for name, hint in MISSED.items()),
        ],
    ),
]
