"""The exercises, a file a concept: cases, oracle and usual mistakes of each."""

from . import roofline

EXERCISES = {exercise.name: exercise for room in (roofline,) for exercise in room.EXERCISES}
