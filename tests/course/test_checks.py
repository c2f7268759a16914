"""Checks: every usual mistake is refused with its hint, right answers of any make pass, and nothing raises."""

import pytest

from llmhw_helpers.course.checks import Exercise, Mistake, check, grade, solution
from llmhw_helpers.course.exercises import EXERCISES
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.clusters import cluster

PRICES = {"T4": 0.35, "V100": 1.31, "A40": 1, "A100-40GB": 1.84, "A100-80GB": 2.2}  # Alvis, by hand
PEAKS = {"T4": 65e12, "V100": 125e12, "A40": 149.7e12, "A100-40GB": 312e12, "A100-80GB": 312e12}
BANDWIDTHS = {"T4": 320e9, "V100": 900e9, "A40": 696e9, "A100-40GB": 1555e9, "A100-80GB": 2039e9}


def most(score):
    return max(PRICES, key=score)


def rows_by_bisection(n_in, n_out, b, ridge):
    intensity = lambda r: 2 * r * n_in * n_out / (b * (r * n_in + n_in * n_out + r * n_out))  # noqa: E731
    if intensity(1e12) < ridge:
        return float("inf")
    low, high = 0.0, 1e12
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if intensity(middle) >= ridge else (middle, high)
    return high


RIGHT = {
    "arithmetic_intensity": [
        lambda r, k, n, b: 2 * r * k * n / (b * (r * k + k * n + r * n)),
        lambda r, k, n, b: 2 / (b * (1 / n + 1 / r + 1 / k)),
    ],
    "ridge": [lambda f, b: f / b, lambda f, b: 1 / (b / f)],
    "best_gpu": [
        lambda i: most(lambda g: min(PEAKS[g], i * BANDWIDTHS[g]) / PRICES[g]),
        lambda i: "T4" if i > 200 else "A100-80GB",
    ],
    "rows_at_ridge": [
        rows_by_bisection,
        lambda k, n, b, ridge: x if (x := 1 / (2 / (ridge * b) - 1 / k - 1 / n)) > 0 else float("inf"),
    ],
}
# name: (wrong answer, a word of the hint that fits it)
WRONG = {
    "arithmetic_intensity": [
        (lambda r, k, n, b: r * k * n / (b * (r * k + k * n + r * n)), "two operations"),
        (lambda r, k, n, b: 2 * r * k * n / (r * k + k * n + r * n), "bytes_per_number"),
        (lambda r, k, n, b: 2 * r * k * n / (b * k * n), "weights only"),
        (lambda r, k, n, b: 2 * r * k * n / (b * (r * k + k * n)), "result has to be written"),
        (lambda r, k, n, b: b * (r * k + k * n + r * n) / (2 * r * k * n), "Upside down"),
        (lambda r, k, n, b: 3 * 2 * r * k * n / (b * (r * k + k * n + r * n)), "3 times the right answer"),
    ],
    "ridge": [
        (lambda f, b: b / f, "Upside down"),
        (lambda f, b: f / (8 * b), "bits"),
        (lambda f, b: 4 * f / b, "no factor"),
        (max, "the two \\*times\\*"),
    ],
    "best_gpu": [
        (lambda i: most(lambda g: min(PEAKS[g], i * BANDWIDTHS[g])), "fastest"),
        (lambda i: most(lambda g: PEAKS[g] / PRICES[g]), "compared peaks"),
        (lambda i: most(lambda g: BANDWIDTHS[g] / PRICES[g]), "compared bandwidths"),
        (lambda i: accelerator("T4"), "a str is asked for"),
    ],
    "rows_at_ridge": [
        (lambda k, n, b, ridge: ridge * b / 2, "leaves out the input"),
        (lambda k, n, b, ridge: ridge * b, "half of that"),
        (lambda k, n, b, ridge: ridge / 2, "bytes_per_number"),
        (lambda k, n, b, ridge: 1 / (2 / (ridge * b) - 1 / k - 1 / n), "negative number of rows"),
    ],
}


def test_the_prices_above_are_those_of_the_course():
    assert {name: cluster("Alvis").price(name).known() for name in PRICES} == PRICES


def test_every_exercise_faces_wrong_and_right_answers():
    assert set(RIGHT) == set(WRONG) == set(EXERCISES)
    assert all(len(answers) >= 2 for answers in RIGHT.values())
    assert all(len(answers) >= 3 for answers in WRONG.values())


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name, answers in RIGHT.items() for answer in answers])
def test_right_answers_pass(name, answer):
    assert grade(answer, EXERCISES[name]).line == f"{name}: correct."


@pytest.mark.parametrize(
    ("name", "answer", "hint"), [(name, answer, hint) for name, pairs in WRONG.items() for answer, hint in pairs]
)
def test_wrong_answers_are_refused_with_a_fitting_hint(name, answer, hint):
    verdict = grade(answer, EXERCISES[name])
    assert not verdict.right
    assert hint.replace("\\", "") in verdict.line
    assert "\n" not in verdict.line


@pytest.mark.parametrize("name", EXERCISES)
def test_blank_and_broken_answers_get_one_line_and_never_raise(name, capsys):
    def blank(*_): ...

    def broken(*_):
        raise ZeroDivisionError("division by zero")

    def one_argument_too_few(*_, missing):
        return missing

    for answer, expected in [(blank, "not answered yet"), (broken, "raised ZeroDivisionError"), (one_argument_too_few, "raised TypeError")]:
        answer.__name__ = name
        check(answer)
        said = capsys.readouterr().out
        assert expected in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("junk", ["text", [1, 2], {}, object(), float("nan"), True, 1 + 2j, (None, 1)])
def test_any_kind_of_answer_gets_a_verdict(junk):
    for exercise in EXERCISES.values():
        assert not grade(lambda *_, junk=junk: junk, exercise).right


def test_a_renamed_function_gets_the_nearest_name(capsys):
    def ridges(): ...

    check(ridges)
    assert "unknown exercise 'ridges'; did you mean ridge or rows_at_ridge?" in capsys.readouterr().out


def test_a_right_learner_goes_on_with_their_own_answer_and_a_wrong_one_with_the_reference():
    def ridge(f, b):
        return f / b

    mine = ridge

    def ridge(f, b):
        return 1

    wrong = ridge

    def ridge(f, b):
        return (1 / b) * f

    assert solution(mine)(ridge) is mine
    assert solution(wrong)(ridge) is ridge


def test_a_wrong_reference_is_never_let_through():
    def ridge(f, b):
        return b / f

    with pytest.raises(AssertionError, match="own solution is wrong"):
        solution(ridge)(ridge)


def test_answers_that_are_sequences_are_compared_item_by_item():
    exercise = Exercise("pair", [(2,)], lambda n: (n, "two", [1.0]), [Mistake("swapped", lambda n: ("two", n, [1.0]))])
    assert grade(lambda n: (2.0, "two", (1,)), exercise).right
    assert "swapped" in grade(lambda n: ("two", 2, [1.0]), exercise).line
    assert not grade(lambda n: (2.0, "two"), exercise).right
