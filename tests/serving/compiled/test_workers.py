"""Parts of a step run at the same time, one step after the other, whatever interrupts, fails, forks or ends."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from llmhw_helpers.serving.compiled.workers import Workers, workers


@pytest.fixture
def team():
    team = Workers()
    yield team
    team.close()


def test_all_parts_of_a_step_run_at_the_same_time(team):
    for n in (4, 1, 2, 3):
        meeting, taken = threading.Barrier(n), []

        def part(me, n, meeting=meeting, taken=taken):
            meeting.wait(60)  # whoever comes alone waits in vain
            taken.append((me, n))

        team.run(part, n)
        assert sorted(taken) == [(me, n) for me in range(n)]
    with pytest.raises(ValueError, match="at least one part, not 0"):
        team.run(print, 0)


def test_between_steps_they_sleep(team):
    team.run(lambda me, n: None, 4)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_steps_of_many_callers_never_mix(team):
    inside, most = [], []

    def part(me, n):
        inside.append(me)
        most.append(len(inside))
        time.sleep(0.001)
        inside.remove(me)

    callers = [threading.Thread(target=lambda: [team.run(part, 2) for _ in range(20)]) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(most) == 4 * 20 * 2
    assert max(most) == 2


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_what_goes_wrong_in_a_part_is_raised_after_the_others_have_ended(team, wrong):
    ended = []

    def part(me, n):
        if me == wrong:
            raise ZeroDivisionError(f"part {me}")
        time.sleep(0.05)
        ended.append(me)

    with pytest.raises(ZeroDivisionError, match=f"part {wrong}"):
        team.run(part, 3)
    assert sorted(ended) == sorted({0, 1, 2} - {wrong})
    team.run(lambda me, n: ended.append(me), 3)  # they go on
    assert len(ended) == 5


def test_an_interrupt_waits_for_the_step(team):
    """The next step must not begin, nor anybody use the memory of this one, while a part is still at work."""
    ended = []

    def part(me, n):
        if me == 1:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        ended.append(me)

    with pytest.raises(KeyboardInterrupt):
        team.run(part, 2)
    assert sorted(ended) == [0, 1]
    team.run(lambda me, n: ended.append(me), 2)
    assert len(ended) == 4


def test_a_step_holds_nothing_when_it_has_ended(team):
    class Model:
        gone = threading.Event()

        def __del__(self):
            self.gone.set()

    model = Model()
    team.run(lambda me, n, model=model: None, 2)
    del model
    assert Model.gone.wait(10)


def test_of_two_leaders_one_leaves_at_once(team):
    """As where an interrupt comes between a leader's start and the note of it."""
    team.run(lambda me, n: None, 2)
    first, team._leader = team._leader, None
    team._start()
    second, team._leader = team._leader, first
    second.join(10)
    alive = [first.is_alive(), second.is_alive()]
    if alive[1]:
        team._steps.put(None)  # or nobody would end it
    assert alive == [True, False]


def python(code):
    """What a program of its own writes; it has to end by itself."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_closed_they_refuse_in_one_line():
    team = Workers()
    team.run(lambda me, n: None, 2)
    team.close()
    team.close()
    assert not any(thread.name.startswith("decode-") and thread is team._leader for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="closed"):
        team.run(print, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_threads_of_its_own():
    assert (
        python("""
import os, sys, time, warnings
from llmhw_helpers.serving.compiled.workers import workers
warnings.simplefilter("ignore")  # Python's, of threads and fork
workers().run(lambda me, n: None, 3)
child = os.fork()
taken = []
workers().run(lambda me, n: taken.append(me), 3)
if child:
    assert os.waitpid(child, 0)[1] == 0
print(sorted(taken), flush=True)
""")
        == "[0, 1, 2]\n" * 2
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_that_ends_waits_for_nothing_of_its_parents():
    """Another thread of the parent's may have been starting its team, whose lock nobody gives back in the child."""
    assert (
        python("""
import os, signal, sys, warnings
from llmhw_helpers.serving.compiled.workers import workers
warnings.simplefilter("ignore")
workers()._starting.acquire()
child = os.fork()
if not child:
    signal.alarm(20)
    workers().run(lambda me, n: None, 2)
    sys.exit()
print(os.waitpid(child, 0)[1])
workers()._starting.release()
""")
        == "0\n"
    )


def test_python_ends_while_another_thread_is_in_a_step():
    assert (
        python("""
import sys, threading, time
from llmhw_helpers.serving.compiled.workers import workers
began = threading.Event()

def part(me, n):
    began.set()
    time.sleep(0.3)
    if me == 0:
        print("whole", flush=True)

threading.Thread(target=lambda: workers().run(part, 2), daemon=True).start()
began.wait()
""")
        == "whole\n"
    )


def test_a_process_has_one_team():
    assert workers() is workers()
