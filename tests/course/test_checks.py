"""Checks: one line, nothing raises, and a solution is held to its own check."""

import re

import pytest

from llmhw_helpers.course.checks import check, solution
from llmhw_helpers.course.exercises import EXERCISES


@pytest.mark.parametrize("name", EXERCISES)
def test_blank_and_broken_answers_get_one_line_and_never_raise(name, capsys):
    def blank(*_): ...

    def broken(*_):
        raise ZeroDivisionError("division by zero")

    def wordy(*_):
        raise ValueError("first\nsecond")

    def one_argument_too_few(*_, missing):
        return missing

    for answer, expected in [
        (blank, "not answered yet"),
        (broken, "raised ZeroDivisionError"),
        (wordy, "raised ValueError: first second"),
        (one_argument_too_few, "raised TypeError"),
    ]:
        answer.__name__ = name
        check(answer)
        said = capsys.readouterr().out
        assert expected in said
        assert said.count("\n") == 1


def test_a_renamed_function_gets_the_nearest_name(capsys):
    def ridges(): ...

    check(ridges)
    assert re.match("unknown exercise 'ridges'; did you mean .*ridge", capsys.readouterr().out)


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
