"""Feedback on exercises: one line, and never an exception."""

from collections.abc import Callable

from ..specs.figures import UnknownName, look_up
from .exercises import EXERCISES
from .grading import Exercise, grade


def check(answer: Callable) -> None:
    """Print how the exercise of that function's name stands. Never raises."""
    try:
        print(grade(answer, _exercise(answer)).line)
    except UnknownName as error:
        print(f"{error} (a check goes by the function's name)")


def solution(answer: Callable) -> Callable[[Callable], Callable]:
    """Decorate the reference: go on with the learner's `answer` if it is right, else with the reference.

    Raises:
        AssertionError: the reference does not pass its own check.
    """

    def choose(reference: Callable) -> Callable:
        exercise = _exercise(reference)
        verdict = grade(reference, exercise)
        assert verdict.right, f"the course's own solution is wrong: {verdict.line}"
        return answer if grade(answer, exercise).right else reference

    return choose


def _exercise(answer: Callable) -> Exercise:
    return look_up(getattr(answer, "__name__", str(answer)), EXERCISES, "exercise")
