"""The exercises, a file a concept: cases, oracle and usual mistakes of each."""

from . import autodiff, roofline, training

ROOMS = (roofline, autodiff, training)
EXERCISES = {exercise.name: exercise for room in ROOMS for exercise in room.EXERCISES}
assert len(EXERCISES) == sum(len(room.EXERCISES) for room in ROOMS), "two exercises of one name"
