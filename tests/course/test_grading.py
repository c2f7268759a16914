"""Grading: whatever is answered, there is a verdict, and its line says what is off."""

from decimal import Decimal

import numpy as np
import pytest

from llmhw_helpers.course.exercises import EXERCISES
from llmhw_helpers.course.grading import Exercise, Mistake, grade


@pytest.mark.parametrize(
    "junk", [10**400, Decimal(1), "text", [1, 2], {}, object(), float("nan"), True, 1 + 2j, (None, 1)]
)
def test_any_kind_of_answer_gets_a_verdict(junk):
    for exercise in EXERCISES.values():
        assert not grade(lambda *_, junk=junk: junk, exercise).right


@pytest.mark.parametrize("error", [SystemExit(3), RecursionError("too deep"), ZeroDivisionError()])
def test_an_answer_that_raises_gets_a_verdict(error):
    def answer(n):
        raise error

    verdict = grade(answer, Exercise("f", [(1,)], float))
    assert not verdict.right
    assert verdict.line.startswith(f"f: f(1) raised {type(error).__name__}: ")


def test_answers_that_are_sequences_are_compared_item_by_item():
    exercise = Exercise("pair", [(2,)], lambda n: (n, "two", [1.0]), [Mistake("swapped", lambda n: ("two", n, [1.0]))])
    assert grade(lambda n: (2.0, "two", (1,)), exercise).right
    assert "swapped" in grade(lambda n: ("two", 2, [1.0]), exercise).line
    assert not grade(lambda n: (2.0, "two"), exercise).right


def test_a_mistake_may_leave_cases_out():
    exercise = Exercise(
        "odd", [(1,), (2,), (3,)], lambda n: n % 2, [Mistake("two is even", lambda n: 1 if n == 2 else ...)]
    )
    assert "two is even" in grade(lambda n: 1, exercise).line
    assert "two is even" in grade(lambda n: n == 2 and 1, exercise).line
    assert "two is even" not in grade(lambda n: 0, exercise).line
    assert grade(lambda n: n & 1, exercise).right


def test_an_answer_that_is_almost_right_is_told_how_far_it_is_off():
    count = Exercise("count", [(14_609,)], lambda n: n, rtol=1e-9)
    assert (
        grade(lambda n: n + 1, count).line == "count: not yet. count(14609) gave 14,610, 1 more than the right answer."
    )
    assert "gave 14,608.5, 0.5 less than the right answer." in grade(lambda n: n - 0.5, count).line


def test_what_kind_is_asked_for_is_said_with_its_article():
    assert "gave list [1]; an int is asked for." in grade(lambda n: [n], Exercise("f", [(1,)], lambda n: n)).line
    near = Exercise("f", [(1_000_000,)], lambda n: n, rtol=1e-9)
    assert "gave 1,000,020, 20 more than the right answer." in grade(lambda n: n + 20, near).line
    assert "gave 999,980, 20 less than the right answer." in grade(lambda n: np.int64(n - 20), near).line
    assert "gave [1.0, 3.0], which is not right." in grade(lambda: (1, 3), Exercise("f", [()], lambda: np.ones(2))).line
    assert "gave tuple (1,); a float is asked for." in grade(lambda n: (n,), Exercise("f", [(1,)], float)).line


def test_nothing_and_a_wrong_sign_are_told_without_a_ratio():
    exercise = Exercise("f", [(3,)], lambda n: n / 7)
    assert grade(lambda n: 0.0, exercise).line == "f: not yet. f(3) gave 0, and the right answer is not 0."
    assert grade(lambda n: -n / 7.0001, exercise).line == "f: not yet. f(3) gave -0.4286: only the sign is wrong."
    assert "gave -0.8571, -2 times the right answer." in grade(lambda n: -2 * n / 7, exercise).line


def test_a_large_array_is_told_by_its_shape():
    exercise = Exercise("f", [(np.zeros((4, 6)), np.zeros(3))], lambda a, b: 1.0)
    line = grade(lambda a, b: 2.0, exercise).line
    assert line == "f: not yet. f(<4 x 6 numbers>, [0.0, 0.0, 0.0]) gave 2, 2 times the right answer."


def test_a_rule_lets_every_answer_pass_that_keeps_to_it_and_says_what_others_break():
    even = Exercise("even", [(3,), (9,)], lambda n: n + 1, rule=lambda given, n: "" if given % 2 == 0 else "it is odd")
    assert grade(lambda n: n + 1, even).line == "even: correct."
    assert grade(lambda n: 2, even).right
    assert grade(lambda n: n - 1 + (n > 5), even).line == "even: not yet. even(9) gave 9: it is odd"
    assert grade(lambda n: None, even).line == "even: not answered yet."


def test_a_judge_sees_all_answers_together():
    most = Exercise("most", [(1,), (2,), (3,)], lambda n: n, judge=lambda given: "" if sum(given) > 4 else "too few")
    assert grade(lambda n: n if n > 1 else 0, most).line == "most: correct."
    assert grade(lambda n: 1, most).line == "most: not yet. too few"
    assert grade(lambda n: None, most).line == "most: not answered yet."


def test_a_rule_that_fails_on_an_answer_of_another_kind_gives_a_verdict_too():
    longer = Exercise("longer", [(3,)], lambda n: "four", rule=lambda given, n: "" if len(given) > n else "too short")
    assert (
        grade(lambda n: 5, longer).line == "longer: not yet. longer(3) gave 5: an answer of another kind is asked for"
    )
