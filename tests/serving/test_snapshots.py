"""Snapshots say what the engine's own parts say, at every step."""

import pytest

from llmhw_helpers.serving.snapshots import record, snapshot

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13]


@pytest.fixture
def run(new_engine):
    """Two that share a prompt, and one that has to wait for a place."""
    engine = new_engine(n_blocks=12, max_batch_size=2, max_step_tokens=9)
    first = engine.submit(PROMPT, 6, n=2, temperature=1.0, seed=3)
    requests = {"one": first, "other": first.siblings[0], "late": engine.submit([*PROMPT, 20, 21], 3)}
    return engine, requests, list(record(engine, requests))


def test_at_first_all_wait_and_in_the_end_all_are_done(run):
    engine, _, states = run
    assert set(states[0].states.values()) == {"waiting"}
    assert (states[0].step, states[0].found, set(states[0].ref_count)) == (0, frozenset(), {0})
    assert set(states[-1].states.values()) == {"length"}
    assert [each.step for each in states] == list(range(len(states)))
    assert states[-1].step == engine.statistics.n_steps
    assert {name: table for name, table in states[-1].tables.items() if table} == {}


def test_counts_and_slots_are_those_of_the_tables(run):
    for state in run[2]:
        for block, count in enumerate(state.ref_count):
            assert len(state.holders(block)) == count
            assert not (count and block in state.found)
            assert (state.filled(block) == 0) == (count == 0 and block not in state.found)
        for name, table in state.tables.items():
            slots = [min(4, max(0, state.lengths[name] - 4 * i)) for i in range(len(table))]
            assert all(state.filled(block) >= n for block, n in zip(table, slots, strict=True))
            assert not table or slots[-1] > 0


def test_sharing_copying_and_what_can_still_be_found_are_seen(run):
    _, requests, states = run
    first = states[1]
    assert first.tables["one"] == first.tables["other"]
    assert [first.ref_count[block] for block in first.tables["one"]] == [2, 2, 2]
    assert [first.filled(block) for block in first.tables["one"]] == [4, 4, 1]
    second = states[2]
    assert second.tables["one"][:2] == second.tables["other"][:2]
    assert second.tables["one"][2] != second.tables["other"][2], "copied before it was written"
    assert first.states["late"] == "waiting"
    assert requests["late"].n_reused == 8
    assert {first.tables["one"][0], first.tables["one"][1]} <= states[-1].found
    assert all(states[-1].filled(block) == 4 for block in states[-1].found)


def test_a_snapshot_changes_nothing(run):
    engine, requests, states = run
    assert snapshot(engine, requests) == states[-1] == snapshot(engine, requests)
