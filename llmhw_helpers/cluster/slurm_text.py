"""Pieces of what Slurm's commands print."""

import re
from datetime import datetime

GPUS = re.compile(r"gpu(?::[^:=,]+)?[:=](\d+)")


def rows_of(text: str) -> list[str]:
    """A row begins with a job's number and a state; its last field, a name, may have several lines."""
    return re.split(r"\n(?=\d[^|\s]*\|[A-Z])", text.rstrip("\n")) if text.strip() else []


def moment_of(text: str) -> datetime | None:
    """A local time; None where Slurm has none."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # "Unknown", "N/A", "None"
        return None


def exit_of(text: str) -> tuple[int, int]:
    """Exit code and signal, which Slurm writes as ``15:0``."""
    code, signal = text.split(":")
    return int(code), int(signal)


def gpus_in(text: str) -> int:
    """GPUs in ``gres:gpu:A40:2``, ``cpu=4,gres/gpu=2,gres/gpu:a40=2`` and the like: the largest, which counts all."""
    return max(map(int, GPUS.findall(text)), default=0)


def least_of(text: str) -> int:
    """Of ``2`` or ``2-4``, as a job that waits may have it; 0 of ``N/A``, as one that was refused has."""
    return int(re.match(r"\d*", text)[0] or 0)
