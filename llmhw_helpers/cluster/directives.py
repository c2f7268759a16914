"""What a job script asks for in its ``#SBATCH`` lines, as the local runner reads them."""

import math
import re
import shlex
import signal
from collections.abc import Mapping

from ..specs.figures import look_up
from ..specs.settings import OneLine

VALUES = ("job-name", "nodes", "ntasks-per-node", "cpus-per-task", "time", "output", "signal", "array", "open-mode")
FLAGS = ("requeue",)
COUNTS = ("nodes", "ntasks-per-node", "cpus-per-task")
FIELDS = ("%x", "%j", "%A", "%a")  # of an output's name
MOST_TASKS = 1000  # of an array
N = "[0-9]{1,9}"  # digits of a number
ELSEWHERE = ("account", "partition", "constraint", "gpus-per-node", "gpus", "gres", "mem", "mem-per-cpu", "exclusive")


class BadJob(OneLine, ValueError):
    """A script that is no job, or asks for what nobody here can give; the message says what."""


def directives(script: str) -> dict[str, str]:
    """What the ``#SBATCH`` lines of a script ask for, by their long names.

    Raises:
        BadJob: a script without a first line ``#!``, or an option that the local runner does not know.

    >>> directives("#!/bin/bash\\n#SBATCH --nodes=2 --time=00:05:00\\nsrun hostname")
    {'nodes': '2', 'time': '00:05:00'}
    """
    lines = script.splitlines()
    if not lines or not lines[0].startswith("#!"):
        raise BadJob("a job script begins with a line such as #!/bin/bash")
    asked = {}
    for line in lines[1 : first_command(lines)]:
        for word in _words(line) if line.startswith("#SBATCH") else []:
            name, _, value = word.removeprefix("--").partition("=")
            known = (*VALUES, *FLAGS, *ELSEWHERE)
            if not word.startswith("--") or name not in known:
                look_up(word, {f"--{each}": each for each in known}, "option of the local runner, written --name=value")
            asked[name] = value
    return asked


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line.removeprefix("#SBATCH"), comments=True)
    except ValueError as error:  # a quote without its other half
        raise BadJob(f"{line.strip()!r:.80} cannot be read: {error}") from None


def check(asked: Mapping[str, str]) -> None:
    """Refuse what cannot be done, before a job is in the queue.

    Raises:
        BadJob: a value that is none, or one that Slurm would take and the local runner does not; which it is.
    """
    for name in COUNTS:
        if name in asked and not re.fullmatch(r"0*[1-9][0-9]{0,5}", asked[name]):
            raise BadJob(f"--{name}={asked[name]}: the local runner takes a whole number from 1 on")
    for name, read in (("time", limit_seconds), ("signal", signal_of), ("array", task_numbers)):
        if name in asked:
            read(asked[name])
    if asked.get("open-mode", "append") not in ("append", "truncate"):
        raise BadJob(f"--open-mode={asked['open-mode']}: it is append or truncate")
    if "/" in asked.get("job-name", ""):
        raise BadJob(f"--job-name={asked['job-name']}: a name that may be a file's has no /")
    unknown = [field for field in re.findall(r"%.?", asked.get("output", "")) if field not in FIELDS]
    if unknown:
        raise BadJob(f"--output={asked['output']}: the local runner knows {', '.join(FIELDS)}, and not {unknown[0]}")


def first_command(lines: list[str]) -> int:
    """Lines before the first command: where Slurm stops to read what is asked for."""
    return next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))


def limit_seconds(limit: str) -> float:
    """A time limit as Slurm writes it; a number alone is minutes, and 0 is no limit.

    >>> [limit_seconds(limit) for limit in ("2", "1:30", "00:01:00", "1-00:00:00", "1-2")]
    [120.0, 90.0, 60.0, 86400.0, 93600.0]
    """
    found = re.fullmatch(f"(?:({N})-)?({N})(?::({N}))?(?::({N}))?", limit)
    if not found:
        raise BadJob(f"{limit!r} is no time limit, such as 5, 0:30 or 1-00:00:00")
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        hours, minutes, seconds = numbers + [0] * (3 - len(numbers))
    else:
        hours, minutes, seconds = {1: (0, *numbers, 0), 2: (0, *numbers), 3: tuple(numbers)}[len(numbers)]
    return float(int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds) or math.inf


def task_numbers(array: str) -> list[int]:
    """Numbers of an array's tasks.

    >>> task_numbers("1-3"), task_numbers("0-6:3,9%2")
    ([1, 2, 3], [0, 3, 6, 9])
    """
    numbers = []
    for part in array.partition("%")[0].split(","):
        found = re.fullmatch(f"({N})(?:-({N})(?::({N}))?)?", part)
        if not found:
            raise BadJob(f"{array!r} are no tasks of an array, such as 1-4")
        first, last, by = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        if not first <= last < first + MOST_TASKS * by:  # an even step from 1 on, and not too many
            raise BadJob(f"{array!r}: from {first} to {last} by {by} are no tasks, or more than {MOST_TASKS}")
        numbers += range(first, last + 1, by)
    if len(numbers) > MOST_TASKS:
        raise BadJob(f"{array!r:.60} are more than {MOST_TASKS} tasks")
    return sorted(set(numbers))


def signal_of(asked: str) -> tuple[int, float]:
    """The signal before the time limit, and how many seconds before; to the script alone (``B:``), as it has the trap.

    >>> signal_of("B:USR1@60")
    (<Signals.SIGUSR1: 10>, 60.0)
    """
    found = re.fullmatch(f"B:(?:SIG)?([A-Z]+[0-9]?)(?:@({N}))?", asked)
    if not found or f"SIG{found[1]}" not in signal.Signals.__members__:
        raise BadJob(f"{asked!r} is no signal that the local runner sends: B:USR1@60 goes to the script, 60 s before")
    return signal.Signals[f"SIG{found[1]}"], float(found[2] or 60)
