"""What a command says on its standard output, which may be full, closed, or a pipe that nobody reads any more."""

import argparse
import os
import signal
import sys
from contextlib import suppress
from typing import IO

NOBODY_READS = 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1  # as a shell tells of any other program


class Parser(argparse.ArgumentParser):
    """One whose help is an answer, too: `argparse` takes no notice where it is lost."""

    def print_help(self, file: IO[str] | None = None) -> None:
        """The help, on the standard output; where it cannot be written, the command ends as `put_out` says."""
        if status := put_out(self.prog, self.format_help().rstrip("\n")):
            self.exit(status)


def put_out(program: str, text: str) -> int:
    """Print what was asked for; what comes after it goes nowhere if it cannot be written.

    Returns:
        the exit status of a command that has nothing else to do: 0; 141 without a word if the reader has gone, as with
        ``| head``; else 1, and a line on stderr says what is wrong.
    """
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        print(text, flush=True)
        return 0
    except OSError as error:
        _go_silent()
        if isinstance(error, BrokenPipeError):
            return NOBODY_READS
        print(f"{program}: cannot write to the standard output: {error.strerror or error}", file=sys.stderr)
        return 1


def _go_silent() -> None:
    """What could not be written is written nowhere, or Python would try again as it ends, and complain."""
    nowhere = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
    with suppress(AttributeError, OSError, ValueError):  # it is no file
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    sys.stdout = nowhere
