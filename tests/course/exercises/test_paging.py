"""The exercises of notebook 08 against usual wrong answers and different right ones."""

import math
import random

from llmhw_helpers.course.exercises import EXERCISES, paging


def steps_by_hand(n_new, n_places, continuous):
    waiting, places, steps = list(n_new), [], 0
    while waiting or places:
        if continuous or not places:
            n = n_places - len(places)
            places, waiting = places + waiting[:n], waiting[n:]
        places, steps = [n - 1 for n in places if n > 1], steps + 1
    return steps


def places_that_free_up(n_new, n_places, continuous):
    if not continuous:
        return sum(max(n_new[i : i + n_places]) for i in range(0, len(n_new), n_places))
    done = [0] * n_places
    for n in n_new:
        at = done.index(min(done))
        done[at] += n
    return max(done)


def in_turns(n_new, n_places, continuous):
    """A usual slip: the places are dealt out like cards."""
    free_at = [0] * n_places
    for i, n in enumerate(n_new):
        free_at[i % n_places] += n
    return max(free_at) if continuous else steps_by_hand(n_new, n_places, False)


def share_by_marking(lengths, block_size):
    slots = [position < n for n in lengths for position in range(math.ceil(n / block_size) * block_size)]
    return slots.count(False) / len(slots)


def looks(*skip):
    """A test that asks for each thing that is promised, but for what is named."""

    def is_faulty(make):
        manager = make(4, 4)
        if "edge" not in skip and [manager.blocks_for(n) for n in (1, 4, 5, 8)] != [1, 1, 2, 2]:
            return True
        one, two = manager.allocate(), manager.allocate()
        manager.share([one])
        manager.release([one])
        if "count" not in skip and manager.n_free != 2:
            return True
        manager = make(4, 4)
        one, two = manager.allocate(), manager.allocate()
        manager.release([one, two])
        if "leak" not in skip and manager.n_free != 4:
            return True
        manager = make(4, 4)
        one = manager.allocate()
        manager.seal(one, b"text")
        manager.release([one])
        manager.share(manager.find([b"text"]))
        if "still free" not in skip and manager.n_free != 3:
            return True
        manager.release([one])
        for _ in range(4):
            if manager.n_free:
                manager.allocate()
        if "stale" not in skip and manager.find([b"text"]):
            return True
        manager = make(4, 4)
        one = manager.allocate()
        manager.release([one])
        try:
            manager.release([one])
        except ValueError:
            return False
        return "twice" not in skip

    return is_faulty


def holds_a_book(make):
    """At random, beside a book of who holds what."""
    draw, manager, held, book = random.Random(0), make(6, 3), [], {}
    for n in range(40):
        if manager.blocks_for(n) != len({i // 3 for i in range(n)}):
            return True
    for turn in range(400):
        what = draw.random()
        if what < 0.4 and manager.n_free:
            block = manager.allocate()
            if any(block in blocks for blocks in held) or block in manager.find([book.pop(block, b"")]):
                return True
            key = turn.to_bytes(4, "big")
            manager.seal(block, key)
            book[block] = key
            held.append([block])
        elif what < 0.6 and book:
            found = manager.find([draw.choice(list(book.values()))])
            manager.share(found)
            held.append(found)
        elif held:
            blocks = held.pop(draw.randrange(len(held)))
            if draw.random() < 0.5 and held and not set(held[-1]) & set(blocks):
                blocks = blocks + held.pop()
            manager.release(blocks)
        if manager.n_free != 6 - len({block for blocks in held for block in blocks}):
            return True
    for blocks in held:
        manager.release(blocks)
    try:
        manager.release([0])
    except ValueError:
        return False
    return True


def assumes_the_first_is_zero(make):
    return make(4, 4).allocate() != 0 or looks()(make)


def assumes_the_last_comes_first(make):
    return make(4, 4).allocate() != 3 or looks()(make)


RIGHT = {
    "slot_of": [
        lambda position, table, size: table[position // size] * size + position % size,
        lambda position, table, size: [range(b * size, b * size + size) for b in table][position // size][
            position % size
        ],
    ],
    "blocks_needed": [
        lambda n_prompt, n_new, size: math.ceil((n_prompt + n_new - 1) / size),
        lambda n_prompt, n_new, size: (n_prompt + n_new + size - 2) // size,
    ],
    "empty_share": [
        lambda lengths, size: sum(-n % size for n in lengths) / sum(n + -n % size for n in lengths),
        share_by_marking,
    ],
    "found_tokens": [
        lambda same, n, size: min(same, n - 1) // size * size,
        lambda same, n, size: max(k for k in range(0, n, size) if k <= same),
    ],
    "n_steps": [steps_by_hand, places_that_free_up],
    "is_faulty": [looks(), holds_a_book],
}
# name: (wrong answer, words of the hint that fits it)
WRONG = {
    "slot_of": [
        (lambda p, t, b: p % b, "place within the block"),
        (lambda p, t, b: t[p // b] * b, "where in it is the token"),
        (lambda p, t, b: p, "looked up in the table"),
        (lambda p, t, b: t[p // b] + p % b, "begins at block * block_size"),
        (lambda p, t, b: t[p // b], "That is the block; which slot"),
        (lambda p, t, b: t[p // b] * b + p, "block's own beginning"),
        (lambda p, t, b: (t[p // b], p % b), "make one number"),
        (lambda p, t, b: [t[p // b] * b + p % b], "an int is asked for"),
        (lambda p, t, b: t[p % b], "times the right answer"),
    ],
    "blocks_needed": [
        (lambda p, n, b: -(-(p + n) // b), "One too many at a block's edge"),
        (lambda p, n, b: (p + n - 1) // b, "filled in part is needed"),
        (lambda p, n, b: 1 + (p + n - 1) // b, "One too many at a block's edge"),
        (lambda p, n, b: -(-p // b) + -(-(n - 1) // b), "round up once"),
        (lambda p, n, b: -(-p // b) + -(-n // b), "Add up the tokens first"),
        (lambda p, n, b: -(-p // b), "The answer needs slots"),
        (lambda p, n, b: 0, "is not 0"),
    ],
    "empty_share": [
        (lambda n, b: sum(n) / sum(each + -each % b for each in n), "that hold a token"),
        (lambda n, b: sum(-each % b for each in n) / sum(n), "those that are *held*"),
        (lambda n, b: 1 - sum(n) / (b * sum(each // b + 1 for each in n)), "whole block of them"),
        (lambda n, b: 1 - sum(n) / (sum(n) + -sum(n) % b), "round up for each one"),
        (lambda n, b: sum(-each % b for each in n), "which share of those held"),
        (lambda n, b: sum(-each % b / (each + -each % b) for each in n) / len(n), "instead of a mean of shares"),
        (lambda n, b: sum(-each % b for each in n) / len(n) / b, "not of the last ones"),
        (lambda n, b: (b - 1) / 2 / (sum(n) / len(n)), "which is not right"),
    ],
    "found_tokens": [
        (lambda s, p, b: min(s, p - 1), "Only full blocks are found."),
        (lambda s, p, b: -(-min(s, p - 1) // b) * b, "round down"),
        (lambda s, p, b: s // b * b, "no logits to go on from"),
        (lambda s, p, b: min(s, p - 1) // b, "how many tokens"),
        (lambda s, p, b: p - min(s, p - 1) // b * b, "left to read"),
    ],
    "n_steps": [
        (lambda n, k, c: places_that_free_up(n, k, True), "that is the continuous one"),
        (lambda n, k, c: places_that_free_up(n, k, False), "that is the static one"),
        (lambda n, k, c: -(-sum(n) // k) if c else places_that_free_up(n, k, c), "cut up and shared out"),
        (in_turns, "the place that is free first"),
        (lambda n, k, c: places_that_free_up(sorted(n)[::-1], k, c), "who will be the longest"),
        (lambda n, k, c: places_that_free_up(sorted(n), k, c), "who will be the shortest"),
        (lambda n, k, c: sum(n), "write in the same step"),
        (lambda n, k, c: max(n), "fewer places than answers"),
    ],
    "is_faulty": [
        (lambda make: False, "every manager is right"),
        (lambda make: True, "every manager faulty"),
        (assumes_the_first_is_zero, "Manager B is right"),
        (looks("edge"), "at a block's edge"),
        (looks("count"), "forgets a second holder"),
        (looks("still free"), "leaves it free"),
        (looks("stale"), "finds what is gone"),
        (looks("twice"), "takes a block back twice"),
        (looks("leak"), "loses a block"),
        (looks("leak", "twice"), "takes a block back twice"),
        (looks("stale", "edge", "leak"), "at a block's edge"),
        (assumes_the_last_comes_first, "Manager A is right"),
        (lambda make: assumes_the_first_is_zero(make) and looks("edge")(make), "at a block's edge"),
        (lambda make: "yes" if looks()(make) else "no", "a bool is asked for"),
        (lambda make: make(1, 1).allocate() is None, "every manager is right"),
    ],
}


def test_paging(confront):
    confront(paging.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in paging.EXERCISES)
