"""The exercise on reloading of notebook 15 against usual wrong answers and different right ones."""

from llmhw_helpers.course.exercises import EXERCISES, reload


def by_seconds(n_tokens, token_bytes, tokens_per_s, bytes_per_s, wait):
    return min(
        ("reload", wait + n_tokens * token_bytes / bytes_per_s), ("recompute", n_tokens / tokens_per_s), key=last
    )[0]


def last(pair):
    return pair[1]


def by_rates(n_tokens, token_bytes, tokens_per_s, bytes_per_s, wait):
    left = n_tokens / tokens_per_s - wait  # for reading, if that is to be sooner
    if left <= 0:
        return "recompute"
    return "reload" if bytes_per_s > n_tokens * token_bytes / left else "recompute"


def answer(read, computed):
    return "reload" if read < computed else "recompute"


RIGHT = {"recompute_or_reload": [by_seconds, by_rates]}
WRONG = {
    "recompute_or_reload": [
        (lambda n, b, s, r, w: "reload" if r > b * s else "recompute", "left out wait"),
        (
            lambda n, b, s, r, w: "recompute" if by_seconds(n, b, s, r, w) == "reload" else "reload",
            "return the faster one",
        ),
        (lambda n, b, s, r, w: answer(w + n * b / (r / 8), n / s), "not bits"),
        (lambda n, b, s, r, w: answer(w + b / r, n / s), "bytes of one token"),
        (lambda n, b, s, r, w: answer(w + n * b / r, 1 / s), "computed one token"),
    ]
}


def test_reload(confront):
    confront(reload.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in reload.EXERCISES)
