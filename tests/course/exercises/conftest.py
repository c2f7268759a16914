"""Every exercise faces at least three usual wrong answers and two different right ones."""

import pytest

from llmhw_helpers.course.grading import grade


@pytest.fixture
def confront():
    """Hold `right` and `wrong` (answer, words of its hint) by name against a room's exercises."""

    def hold(exercises, right, wrong):
        by_name = {exercise.name: exercise for exercise in exercises}
        assert set(right) == set(wrong) == set(by_name)
        for name, exercise in by_name.items():
            assert len(right[name]) >= 2
            assert len(wrong[name]) >= 3
            for answer in right[name]:
                assert grade(answer, exercise).line == f"{name}: correct."
            for answer, hint in wrong[name]:
                verdict = grade(answer, exercise)
                assert not verdict.right, f"{name}: let through what should be refused with {hint!r}"
                assert hint in verdict.line
                assert "\n" not in verdict.line
            hints = {words for mistake in exercise.mistakes for _, words in wrong[name] if words in mistake.hint}
            assert len(hints) == len(exercise.mistakes), f"{name}: some mistake that the check knows is never made here"

    return hold
