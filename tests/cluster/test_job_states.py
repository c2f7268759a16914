"""States of jobs as files keep them: as they were written, or refused."""

import json
from dataclasses import asdict

import pytest

from llmhw_helpers.cluster.job_states import DONE, JobState, state_of

STATE = JobState("17_2", "twin", "RUNNING", "None", 1.0, 2.5, None, None, 1, "local[1-2]")


def test_a_state_comes_back_as_it_was():
    assert state_of(json.loads(json.dumps(asdict(STATE)))) == STATE
    assert not STATE.done
    assert all(JobState("17", "twin", state).done for state in DONE)


@pytest.mark.parametrize(
    "said",
    [
        *([], None, "RUNNING", {}, {"job": "17", "name": "twin"}, asdict(STATE) | {"colour": "red"}),
        *(asdict(STATE) | {"state": 3}, asdict(STATE) | {"nodes": None}, asdict(STATE) | {"restarts": "1"}),
        *(asdict(STATE) | {"ended_at": at} for at in (float("nan"), float("inf"), 10**400, "now", [])),
        asdict(STATE) | {"exit_code": 0.5},
    ],
)
def test_what_is_no_state_is_refused(said):
    with pytest.raises(ValueError, match="what is kept of a job is no state"):
        state_of(said)
