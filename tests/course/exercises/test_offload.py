"""The exercises on flavours and offloading of notebook 11 against usual wrong answers and different right ones."""

from llmhw_helpers.course.exercises import EXERCISES, offload


def chosen(offers, memory, max_loss, runs=True, fits=True, keeps=True, by=4, last=True):
    able = [
        o for o in offers if (o[1] or not runs) and (o[2] <= memory or not fits) and (o[3] <= max_loss or not keeps)
    ]
    able.sort(key=lambda o: o[by])
    return able[-1 if last else 0][0] if able else None


def by_loop(offers, memory, max_loss):
    best, name = -1, None
    for label, runs, n_bytes, loss, rate in offers:
        if runs and n_bytes <= memory and loss <= max_loss and rate > best:
            best, name = rate, label
    return name


def by_filling(outside, layer, n, limit, rate):
    if outside + n * layer <= limit:
        return 0
    used, kept = outside + 2 * layer, 0
    while used + layer <= limit:
        used, kept = used + layer, kept + 1
    return sum(layer / rate for _ in range(n - kept))


def streamed(outside, layer, n, limit, rate, window=2, taken=1):
    if outside + n * layer <= limit:
        return 0
    return (n - (int((limit - taken * outside) // layer) - window)) * layer / rate


RIGHT = {"take": [chosen, by_loop], "stream_seconds": [streamed, by_filling]}
WRONG = {
    "take": [
        (lambda *a: chosen(*a, runs=False), "has to run here"),
        (lambda *a: chosen(*a, fits=False), "has to fit"),
        (lambda *a: chosen(*a, keeps=False), "loses more than max_loss"),
        (lambda *a: chosen(*a, by=3, last=False), "not the least loss"),
        (lambda *a: chosen(*a, by=2, last=False), "takes least memory"),
        (lambda offers, *_: max(offers, key=lambda o: o[4])[0], "fastest of all"),
        (lambda *a: chosen(*a, last=False), "not the least loss"),
        (lambda *a: next(o for o in a[0] if o[0] == by_loop(*a)), "a whole row"),
    ],
    "stream_seconds": [
        (lambda *a: streamed(*a, window=0), "room for two layers"),
        (
            lambda o, layer, n, limit, rate: (
                (n - (n if n * layer <= limit else int(limit // layer) - 2)) * layer / rate
            ),
            "Embedding and head stay",
        ),
        (lambda o, layer, n, limit, rate: n * layer / rate, "do not stay"),
        (
            lambda o, layer, n, limit, rate: 0 if o + n * layer <= limit else ((n + 2) * layer - (limit - o)) / rate,
            "Whole layers",
        ),
        (
            lambda o, layer, n, limit, rate: max(0, n + 2 - int((limit - o) // layer)) * layer / rate,
            "nothing is streamed",
        ),
        (lambda o, layer, n, limit, rate: streamed(o, layer, n, limit, 1 / rate), "bytes divided"),
    ],
}


def test_offload(confront):
    confront(offload.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in offload.EXERCISES)
