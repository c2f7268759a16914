"""The block-table stepper: go through the steps of a recorded run, forwards and backwards, and see who holds what."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from ipywidgets import Button, HBox, IntSlider, VBox, interactive_output

from ..plots.paging import plot_blocks
from ..serving.snapshots import Snapshot


def step_through(states: Sequence[Snapshot], step: int = 0) -> VBox:
    """A slider and two buttons over a picture of the cache.

    Args:
        states: a run, as ``serving.snapshots.record`` gives it.
        step: where to begin.

    Raises:
        ValueError: nothing was recorded.
    """
    if not states:
        raise ValueError("nothing to step through: states = list(record(engine, requests))")
    slider = IntSlider(step, 0, len(states) - 1, description="step", continuous_update=False)
    back, on = Button(description="one back"), Button(description="one on")

    def move(by: int) -> None:
        slider.value += by  # the slider keeps to its ends

    back.on_click(lambda _: move(-1))
    on.on_click(lambda _: move(1))
    return VBox([HBox([slider, back, on]), interactive_output(lambda step: show_step(states, step), {"step": slider})])


def show_step(states: Sequence[Snapshot], step: int) -> None:
    """Draw one step of a run, and say what has changed."""
    print(what_changed(states[step - 1] if step else None, states[step]))
    plot_blocks(states[step])
    plt.show()


def what_changed(before: Snapshot | None, now: Snapshot) -> str:
    """One line: blocks taken, given back and copied, and who began, stopped or ended.

    A copy on write is a block that a request had in common with another, and now has one of its own for.
    """
    if before is None:
        return f"before the first step: {len(now.ref_count)} blocks of {now.block_size} slots, all free"
    said = []
    for name, table in now.tables.items():
        old, state = before.tables[name], now.states[name]
        copied = [(a, b) for a, b in zip(old, table, strict=False) if a != b]
        if copied:
            said.append(f"{name} copies block {copied[0][0]} to {copied[0][1]} and writes there")
        if len(table) > len(old):
            taken = list(table[len(old) :])
            said.append(f"{name} {'goes on into' if old else 'begins in'} {taken}")
        if state != before.states[name] and not table and old:
            said.append(f"{name} has to wait" if state == "waiting" else f"{name} ends ({state}), {list(old)} let go")
    return f"step {now.step}: " + ("; ".join(said) or "a token more in the same blocks")
