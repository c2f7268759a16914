"""The managers that a student's test is tried on: two are right, and each of the others breaks one promise."""

import pytest

from llmhw_helpers.course.exercises.paging import MISSED
from llmhw_helpers.course.managers import MANAGERS
from llmhw_helpers.serving.blocks import BlockManager


def test_every_manager_is_what_it_says():
    assert [make.faulty for make in MANAGERS] == [False, False, *[True] * 6]
    assert all(isinstance(make(3, 2), BlockManager) for make in MANAGERS)
    assert set(MISSED) == {make.name for make in MANAGERS if make.faulty}
    assert repr(MANAGERS[2]) == "<manager C>"


@pytest.mark.parametrize("make", MANAGERS[:2], ids=repr)
def test_right_managers_give_out_all_blocks_once(make):
    manager = make(5, 4)
    assert sorted(manager.allocate() for _ in range(5)) == [0, 1, 2, 3, 4]
