"""What ``llmhw-serve`` starts with: it imports nothing before it has said how."""

import gc


def main() -> int:
    """The command, see `server.main`; its exit status.

    Until the model is loaded a million objects come that stay, and Python, which looks for rubbish among them again and
    again, finds none: that is a fifth of the time until the first token.
    """
    gc.disable()
    from .server import main

    return main(loaded=_settle)


def _settle() -> None:
    """Look for rubbish from now on, but never among what is there."""
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    raise SystemExit(main())
