"""The memory of a piece of work, in a process of its own: a process that has done other things keeps some of theirs."""

import subprocess
import sys

CHILD = """
import threading, time, psutil
{setup}
process = psutil.Process()
before = peak = process.memory_info().rss
done = threading.Event()
def watch():
    global peak
    while not done.is_set():
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.0005)
watcher = threading.Thread(target=watch, daemon=True)  # or a failure would wait for it
watcher.start()
result = ({run})
peak = max(peak, process.memory_info().rss)
done.set()
watcher.join()
print(peak - before)
"""


def added_bytes(setup: str, run: str) -> int:
    """Resident memory that evaluating `run` adds at its fullest moment, as the operating system sees it.

    A new Python executes `setup`, which does not count, then evaluates the expression `run` and looks at its own memory
    some two thousand times a second. `setup` should try the work on something small: libraries, too, take memory when
    they are used first.

    Raises:
        RuntimeError: the code failed; the message is its last line.

    >>> 9e7 < added_bytes("import numpy", "numpy.ones(12_500_000)") < 11e7
    True
    """
    code = CHILD.format(setup=setup, run=run)
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if child.returncode:
        raise RuntimeError(f"the measured code failed: {child.stderr.strip().splitlines()[-1]}")
    return int(child.stdout.splitlines()[-1])
