"""``llmhw-serve``: the command. What takes seconds to import comes when interrupts are heard."""

import sys
from collections.abc import Sequence

from .interrupts import STOPPED, Interrupts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    with Interrupts() as interrupts:
        with interrupts.importing():
            from ..commands import put_out
            from . import options, server
        parser = options.new_parser()
        asked = parser.parse_args(arguments)
        try:
            server.run(asked, interrupts)
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
