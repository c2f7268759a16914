"""The exercises, a file a concept: cases, oracle and usual mistakes of each."""

from . import (
    attention,
    autodiff,
    checkpoints,
    flash,
    gpus,
    inference,
    lora,
    memory_planning,
    network,
    number_formats,
    offload,
    paging,
    parallelism,
    pipelines,
    pretraining,
    quantization,
    roofline,
    storage,
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
    quantization,
    offload,
    gpus,
    memory_planning,
    pipelines,
    parallelism,
    network,
    storage,
    checkpoints,
)
EXERCISES = {exercise.name: exercise for room in ROOMS for exercise in room.EXERCISES}
assert len(EXERCISES) == sum(len(room.EXERCISES) for room in ROOMS), "two exercises of one name"
