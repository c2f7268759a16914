"""``llmhw-serve``: the command. What takes seconds to import comes when interrupts are heard."""

import gc
import sys
from collections.abc import Sequence

from .interrupts import STOPPED, Interrupts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status.

    Until the model is loaded a million objects come that stay, and Python, which looks for rubbish among them again and
    again, finds none: that is a fifth of the time until the first token.
    """
    gc.disable()
    try:
        return _main(arguments)
    finally:
        gc.enable()


def _settle() -> None:
    """Look for rubbish from now on, but never among what is there."""
    gc.freeze()
    gc.enable()


def _main(arguments: Sequence[str] | None) -> int:
    with Interrupts() as interrupts:
        with interrupts.importing():
            from ..commands import put_out
            from . import options, server
        parser = options.new_parser()
        asked = parser.parse_args(arguments)
        try:
            server.run(asked, interrupts, _settle)
        except KeyboardInterrupt:
            pass
        except Exception as error:
            if not interrupts.told:
                if not isinstance(error, server.REFUSALS):
                    raise
                print(f"{parser.prog}: {error}", file=sys.stderr)
                return 1
    put_out(parser.prog, STOPPED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
