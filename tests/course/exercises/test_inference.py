"""The exercises of notebook 07 against usual wrong answers and different right ones."""

from llmhw_helpers.course.exercises import EXERCISES, inference


def by_counting(n_prompt, n_new, cached):
    read, text = 0, n_prompt
    for i in range(n_new):
        read += text if i == 0 or not cached else 1
        text += 1
    return read


def by_trying(memory, weights, n, kv):
    low, high = 0, 10**9
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if weights + n * middle * kv <= memory else (low, middle)
    return low


RIGHT = {
    "token_computations": [
        lambda n, m, cached: n + m - 1 if cached else sum(range(n, n + m)),
        by_counting,
    ],
    "kv_bytes": [
        lambda n, a, k, d, t, b: 2 * n * k * d * t * b,
        lambda n, a, k, d, t, b: float(sum(t * k * d * b for _ in range(n) for _ in "kv")),
    ],
    "decode_floor": [
        lambda w, kv, n, t, rate: (w + n * t * kv) / rate,
        lambda w, kv, n, t, rate: w / rate + n * (t * kv / rate),
    ],
    "free_batch": [lambda f, m, b: f / m * b / 2, lambda f, m, b: (b / m) / (2 / f)],
    "longest_context": [lambda memory, w, n, kv: (memory - w) // (n * kv), by_trying],
}
# name: (wrong answer, words of the hint that fits it)
WRONG = {
    "token_computations": [
        (lambda n, m, cached: n + m if cached else sum(range(n, n + m + 1)) - n, "last new token is not read by"),
        (lambda n, m, cached: n + m if cached else sum(range(n, n + m)), "not read by anybody either"),
        (lambda n, m, cached: n + m - 1 if cached else n * m, "the text grows"),
        (lambda n, m, cached: sum(range(n, n + m)), "each token is read once"),
        (lambda n, m, cached: m if cached else sum(range(n, n + m)), "prompt has to be read"),
        (lambda n, m, cached: 0, "right answer"),
    ],
    "kv_bytes": [
        (lambda n, a, k, d, t, b: n * k * d * t * b, "factor 2"),
        (lambda n, a, k, d, t, b: 2 * n * a * d * t * b, "n_kv_heads heads"),
        (lambda n, a, k, d, t, b: 2 * k * d * t * b, "Every layer"),
        (lambda n, a, k, d, t, b: 2 * n * k * d * t, "counts numbers"),
        (lambda n, a, k, d, t, b: 2 * n * k * d * b, "Every token"),
        (lambda n, a, k, d, t, b: n * (a + 2 * k) * d * t * b, "queries are not kept"),
    ],
    "decode_floor": [
        (lambda w, kv, n, t, rate: n * (w + t * kv) / rate, "once for the whole batch"),
        (lambda w, kv, n, t, rate: (w + t * kv) / rate, "cache of its own"),
        (lambda w, kv, n, t, rate: (w + n * kv) / rate, "each of the n_tokens"),
        (lambda w, kv, n, t, rate: w / rate, "cache is read, too"),
        (lambda w, kv, n, t, rate: rate / (w + n * t * kv), "Seconds: bytes divided"),
        (lambda w, kv, n, t, rate: (w / n + t * kv) / rate, "not divided among them"),
        (lambda w, kv, n, t, rate: (w + n * t * kv * 2) / rate, "no factor 2"),
    ],
    "free_batch": [
        (lambda f, m, b: f * b / m, "for each text, not one"),
        (lambda f, m, b: f / m, "is the ridge"),
        (lambda f, m, b: f / m / 2, "one byte only"),
        (lambda f, m, b: f / m / b / 2, "*more* texts"),
        (lambda f, m, b: f / m * b * 2, "take *longer*"),
        (lambda f, m, b: 2 * m / (f * b), "Upside down"),
    ],
    "longest_context": [
        (lambda memory, w, n, kv: memory // (n * kv), "weights have to fit"),
        (lambda memory, w, n, kv: (memory - w) // kv, "share the memory"),
        (lambda memory, w, n, kv: (memory - n * w) // (n * kv), "one copy of the weights"),
        (lambda memory, w, n, kv: (memory - w) / (n * kv), "does not count"),
        (lambda memory, w, n, kv: (memory - w) // (n * kv) + 1, "not up"),
        (lambda memory, w, n, kv: round((memory - w) / n / kv), "not to the nearest"),
        (lambda memory, w, n, kv: (memory - w) // n // (n * kv), "batch_size twice"),
    ],
}


def test_inference(confront):
    confront(inference.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in inference.EXERCISES)
