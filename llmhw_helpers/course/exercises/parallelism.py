"""Exercises on a model in pieces (notebook 14)."""

from collections.abc import Mapping, Sequence

from ...costs.parallelism import Indivisible, part
from ...specs.architectures import Model
from ..grading import Exercise, Mistake

BF16 = 2
# A model's n_params, n_layers, d_model; tokens in a step, its seconds of computing, a link's bytes a second. In turn:
# 70 billion parameters on NVLink, InfiniBand and Ethernet; two links on which one way is just too slow; little to do
# on InfiniBand; a link on which two ways just keep up, and one that is hopeless.
NETWORKS = [
    (70e9, 80, 8192, 2**20, 1500.0, 300e9),
    (70e9, 80, 8192, 2**20, 1500.0, 12.5e9),
    (70e9, 80, 8192, 2**14, 23.0, 3.125e9),
    (8e9, 32, 4096, 2**16, 10.5, 45e9),
    (70e9, 80, 8192, 2**16, 92.0, 10e9),
    (8e9, 32, 4096, 2**14, 2.6, 12.5e9),
    (8e9, 32, 4096, 2**20, 168.0, 1e9),
    (8e9, 32, 4096, 2**14, 2.6, 1e8),
]
# Which collective each rank began, in its order. A rank that skips one is out of step from there on.
LOGS = [
    (["layer 2", "layer 1", "layer 0"], ["layer 2", "layer 0"], ["layer 2", "layer 1", "layer 0"]),
    (["sum", "loss", "stop"], ["sum", "loss", "stop"], ["sum", "loss", "stop"], ["loss", "stop"]),
    (["a", "b", "c", "d"], ["a", "b", "c"], ["a", "b", "c", "d"]),
    (["a", "c", "b"], ["a", "b", "c"], ["a", "b", "c"], ["a", "b", "c"]),
]


def _model(n_heads: int, n_kv_heads: int) -> Model:
    return Model("x", 1, 8, n_heads, n_kv_heads, 64, 5040, 2, True, 1, 1e4, "made up")


def _heads(n_heads: int, n_kv_heads: int, tp_size: int) -> tuple[int, int]:
    try:
        mine = part(_model(n_heads, n_kv_heads), tp_size)
    except Indivisible:
        return 0, 0
    return mine.n_heads, mine.n_kv_heads


def _sent(n_params: float, n_layers: int, d_model: int, n_tokens: int) -> Mapping[str, float]:
    """Bytes that one of two ranks sends in a step, from the definitions: an all-reduce of two sends what it sums."""
    stream = BF16 * d_model * n_tokens  # what all tokens are between two blocks
    return {"data": BF16 * n_params, "tensor": 2 * 2 * n_layers * stream, "pipeline": stream}


def _keep_up(n_params, n_layers, d_model, n_tokens, compute_s, bytes_per_s, sent=_sent, share=0.1):
    seconds = {name: n / bytes_per_s for name, n in sent(n_params, n_layers, d_model, n_tokens).items()}
    return [name for name in seconds if seconds[name] <= share * compute_s]


def _changed(**factors: float):
    """An answer that gets the bytes of some ways wrong by these factors."""

    def sent(*case):
        return {name: factors.get(name, 1) * n for name, n in _sent(*case).items()}

    return lambda *case: _keep_up(*case, sent=sent)


def _tensor_once(n_params, n_layers, *rest):
    """The sums of one layer only."""
    return _changed(tensor=1 / n_layers)(n_params, n_layers, *rest)


def _parted(*logs: Sequence[str]) -> tuple[int, int]:
    """The rank that leaves the others, and the place of the first collective that it does not share with them."""
    for place in range(max(map(len, logs))):
        begun = [log[place] if place < len(log) else None for log in logs]
        usual = max(begun, key=begun.count)
        for rank, call in enumerate(begun):
            if call != usual:
                return rank, place
    raise ValueError("all keep step")


def _shortest(*logs: Sequence[str]) -> tuple[int, int]:
    """Whoever began least, where it stopped: where the program hangs, and not why."""
    lengths = [len(log) for log in logs]
    return lengths.index(min(lengths)), min(lengths)


def _unlike_the_first(*logs: Sequence[str]) -> tuple[int, int]:
    """The first rank and place at which a log differs from that of rank 0."""
    for place in range(max(map(len, logs))):
        for rank, log in enumerate(logs):
            if log[place : place + 1] != logs[0][place : place + 1]:
                return rank, place
    raise ValueError("all keep step")


EXERCISES = [
    Exercise(
        name="ring_bytes",
        cases=[(1000, 4), (8 * 2**20, 2), (600, 3), (4096, 1)],
        right=lambda n_bytes, n_ranks: sum(2 * n_bytes / n_ranks for _ in range(n_ranks - 1)),
        mistakes=[
            Mistake(
                "Two rounds: one that adds up, one that hands the finished pieces on.",
                lambda n_bytes, n: (n - 1) / n * n_bytes,
            ),
            Mistake(
                "That is what all ranks together send. One of them sends one piece of n in a step.",
                lambda n_bytes, n: 2 * (n - 1) * n_bytes,
            ),
            Mistake(
                "In each step a rank sends one piece of n, not its whole array; and there are two rounds.",
                lambda n_bytes, n: (n - 1) * n_bytes,
            ),
            Mistake(
                "That is the array once. Count the steps of both rounds, and one piece of n in each.",
                lambda n_bytes, n: n_bytes,
            ),
            Mistake(
                "One piece a round? A round has n - 1 steps, and a rank sends a piece in each.",
                lambda n_bytes, n: 2 * n_bytes / n,
            ),
            Mistake("That is how many times the array; bytes are asked for.", lambda n_bytes, n: 2 * (n - 1) / n),
            Mistake("That is one piece: in how many steps does a rank send one?", lambda n_bytes, n: n_bytes / n),
            Mistake(
                "A rank's own piece need not go all the way round: n - 1 steps a round, not n.",
                lambda n_bytes, n: 2 * n_bytes,
            ),
        ],
    ),
    Exercise(
        name="heads_on_rank",
        cases=[(9, 3, 3), (9, 3, 2), (32, 8, 4), (32, 8, 16), (64, 8, 3), (12, 12, 1), (36, 6, 4), (9, 3, 9)],
        right=_heads,
        mistakes=[
            Mistake(
                "A rank cannot work with half a head: (0, 0) where the heads do not divide.",
                lambda n, k, ranks: (n // ranks, max(1, k // ranks)),
            ),
            Mistake(
                "You round down, and so lose heads: (0, 0) where they do not divide; and each rank holds at least one "
                "head of keys and values.",
                lambda n, k, ranks: (n // ranks, k // ranks),
            ),
            Mistake(
                "Parts of heads: a rank has whole ones, or it cannot be done.",
                lambda n, k, ranks: (n / ranks, k / ranks),
            ),
            Mistake(
                "Heads of keys and values must divide among the ranks, too, or the ranks among those heads.",
                lambda n, k, ranks: (0, 0) if n % ranks else (n // ranks, max(1, k // ranks)),
            ),
            Mistake(
                "Fewer heads of keys and values than ranks are no obstacle: several ranks hold the same one.",
                lambda n, k, ranks: (0, 0) if n % ranks or k % ranks else (n // ranks, k // ranks),
            ),
            Mistake(
                "With fewer heads of keys and values than ranks each rank still holds one, not none.",
                lambda n, k, ranks: (_heads(n, k, ranks)[0], k // ranks if _heads(n, k, ranks)[0] else 0),
            ),
        ],
    ),
    Exercise(
        name="cuts_that_keep_up",
        cases=NETWORKS,
        right=_keep_up,
        mistakes=[
            Mistake("Two sums a layer in the forward pass, and two in the backward pass: four.", _changed(tensor=0.5)),
            Mistake("A number in bf16 has two bytes.", _changed(data=0.5, tensor=0.5, pipeline=0.5)),
            Mistake(
                "A pipeline sends between two stages, once each way, not after every layer.",
                lambda p, layers, *rest: _keep_up(
                    p, layers, *rest, sent=lambda *case: _sent(*case) | {"pipeline": layers * _sent(*case)["pipeline"]}
                ),
            ),
            Mistake("Each half sends across the border once: the one forwards, the other back.", _changed(pipeline=2)),
            Mistake("In a ring of two, each sends the gradient once: twice (2 - 1)/2 of it.", _changed(data=2)),
            Mistake("Two sums in *every* layer: n_layers times as much.", _tensor_once),
            Mistake(
                "The link's figure is in bytes already, not in bits.", lambda *case: _keep_up(*case, share=0.1 / 8)
            ),
            Mistake("The names in the order data, tensor, pipeline.", lambda *case: _keep_up(*case)[::-1]),
            Mistake("A tenth of the time to compute is asked for.", lambda *case: _keep_up(*case, share=1.0)),
            Mistake(
                "You list those that do *not* keep up; the others are asked for.",
                lambda *case: [n for n in _sent(1, 1, 1, 1) if n not in _keep_up(*case)],
            ),
        ],
    ),
    Exercise(
        name="out_of_step",
        cases=LOGS,
        right=_parted,
        mistakes=[
            Mistake(
                "That is where the program stops. It went wrong earlier: at the first place where one rank begins "
                "something else than the others.",
                _shortest,
            ),
            Mistake(
                "You compare with rank 0, and it may be the one out of step: compare with what most ranks began.",
                _unlike_the_first,
            ),
            Mistake("You give the place first: first the rank, then the place.", lambda *logs: _parted(*logs)[::-1]),
            Mistake("Places are counted from 0.", lambda *logs: (_parted(*logs)[0], _parted(*logs)[1] + 1)),
        ],
    ),
]
