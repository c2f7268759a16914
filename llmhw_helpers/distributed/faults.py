"""What went wrong on ranks, in one line: which rank failed, in which call, and where the others stood then."""

import linecache
import re
import signal
from pathlib import Path

from .worker import Place, own_calls

# What gloo raises on the others when one rank has gone: no fault of theirs.
LOST = re.compile(r"Connection (reset|closed) by peer|Broken pipe|Connection refused")
SIZES = re.compile(r"op\.preamble\.length <= op\.nbytes\. (\d+) vs (\d+)")
DIFFER = re.compile(r"Detected mismatch between collectives.*differ in the following aspects:\s*(.*)", re.DOTALL)
IN_DUMP = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


class RankFailed(RuntimeError):
    """A rank died, raised or hangs; all ranks have been ended. `details` has all that it said: tracebacks, warnings."""

    def __init__(self, line: str, details: str = ""):
        super().__init__(line)
        self.details = details


def fault_line(answers: list[tuple | None], errors: list[str]) -> str:
    """Ranks that failed, then the others, those with the same fate together.

    Args:
        answers: of each rank: ("returned", result), ("raised", kind, message, place, traceback), ("died", exit code),
            ("stands", place), or None.
        errors: what each rank's error output says.

    >>> place = Place((("loss.py", 3, "train"),), "all_reduce")
    >>> fault_line([("stands", place), ("died", -9), ("stands", place)], ["", "", ""])
    'rank 1 died (SIGKILL); ranks 0 and 2 stood in all_reduce at loss.py:3'
    """
    fates: dict[str, list[int]] = {}
    for rank, (answer, error) in enumerate(zip(answers, errors, strict=True)):
        fates.setdefault(fate(answer, error), []).append(rank)
    order = ("died", "ended", "raised", "gave", "stood", "had")
    ordered = sorted(fates.items(), key=lambda said: order.index(said[0].split()[0]))
    return "; ".join(f"{_named(ranks)} {what}" for what, ranks in ordered)


def _named(ranks: list[int]) -> str:
    """ "rank 1", "ranks 0, 2 and 3"."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def fate(answer: tuple | None, error: str = "") -> str:
    """What one rank's answer says, with what is in its error output."""
    match answer:
        case None:
            return "gave no answer"
        case ("returned", _):
            return "had returned"
        case ("stands", place):
            return f"stood in {_where(place)}"
        case ("raised", _, message, place, _) if LOST.search(message) and place.collective:
            return f"stood in {_where(place)}"
        case ("raised", kind, message, place, _):
            if differ := DIFFER.search(message):
                message = f"this rank's call differs from the others': {differ[1].replace('vs ', ' vs ')}"
            at = f" in {_where(place, name=True)}" if place.calls else ""
            return f"raised {kind}{at}: {' '.join(message.split())}"
        case ("died", code) if code < 0:
            known = {each.value: each.name for each in signal.Signals}
            return f"died ({known.get(-code, f'signal {-code}')}){_last_words(error)}"
        case ("died", code):
            return f"ended (exit code {code})"


def _last_words(error: str) -> str:
    """Where a rank stood that a signal ended, if Python's fault handler could still write it, and gloo's reason."""
    dump = error.rpartition("Fatal Python error")[2]
    main = dump.rpartition("hread 0x")[2]  # the main thread comes last
    place = own_calls([(file, int(line), name) for file, line, name in IN_DUMP.findall(main)][::-1])
    at = f" in {_where(place)}" if place.calls else ""
    if sizes := SIZES.search(error):
        return f"{at}: another rank sent {sizes[1]} bytes where this one expected {sizes[2]}"
    return at


def _where(place: Place, name: bool = False) -> str:
    """ "all_reduce at cell:3": the collective, or else the line itself (or its function's `name`), and where it is."""
    if not place.calls:
        return "no code of its own"
    file, line, function = place.calls[-1]
    what = place.collective or (not name and linecache.getline(file, line).strip()) or function
    outer = next(call for call in reversed(place.calls) if call[0] == place.calls[0][0])
    return f"{what} at {_file(file)}:{line}" + (f", from {_file(outer[0])}:{outer[1]}" if outer[0] != file else "")


def _file(path: str) -> str:
    return "cell" if re.search(r"ipykernel_\d+|<ipython|<stdin>", path) else Path(path).name
