"""The exercises, a file a concept: cases, oracle and usual mistakes of each."""

from . import (
    attention,
    autodiff,
    flash,
    inference,
    lora,
    number_formats,
    paging,
    pretraining,
    roofline,
    training,
    transformer,
)

ROOMS = (
    roofline,
    autodiff,
    training,
    attention,
    transformer,
    pretraining,
    lora,
    inference,
    paging,
    flash,
    number_formats,
)
EXERCISES = {exercise.name: exercise for room in ROOMS for exercise in room.EXERCISES}
assert len(EXERCISES) == sum(len(room.EXERCISES) for room in ROOMS), "two exercises of one name"
