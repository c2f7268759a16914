"""Small JSON files that outlive a kernel: written whole or not at all, shared by kernels, never lost in silence."""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_SECONDS = 10


class Record:
    """A dictionary in a file.

    Every change is read, made and written back under a lock, to a new file that replaces the old one in one step. What
    can go wrong costs one printed line and no data: without permission or space the record lives on in this kernel's
    memory; a file that is not a record any more is set aside under another name.

    Args:
        path: of the file; its folder is made.
        is_sound: whether a dictionary has the form that its user expects.
    """

    def __init__(self, path: Path, is_sound: Callable[[dict], bool] = lambda record: True):
        self.path = Path(path)
        self._is_sound = is_sound
        self._pending: list[Callable[[dict], None]] = []

    def read(self) -> dict:
        """The record as it is now, with this kernel's unsaved changes; empty where there is none, or none to read."""
        try:
            return self._changed(self._load() or {})
        except OSError:
            return self._changed({})

    def update(self, change: Callable[[dict], None]) -> dict:
        """Let `change` edit the record in place, save it, and return it."""
        self._pending.append(change)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=LOCK_SECONDS):
                record = self._load()
                if record is None:
                    self._set_aside()
                record = self._changed(record or {})
                self._save(record)
            self._pending.clear()
            return record
        except (OSError, Timeout) as error:
            if len(self._pending) == 1:  # said once, not at every change that follows
                why = (
                    f"another kernel has held it for {LOCK_SECONDS} s" if isinstance(error, Timeout) else error.strerror
                )
                print(
                    f"Not saved, kept in this kernel only: {self.path} ({why}). LLMHW_HOME=FOLDER names another place."
                )
            return self.read()
        except BaseException:
            self._pending.pop()  # a change that cannot be made must not spoil those to come
            raise

    def _changed(self, record: dict) -> dict:
        for change in self._pending:
            change(record)
        return record

    def _load(self) -> dict | None:
        """What the file holds; empty where there is none yet, None where it is damaged."""
        try:
            record = json.loads(self.path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError:  # neither JSON nor even text
            return None
        return record if isinstance(record, dict) and self._is_sound(record) else None

    def _set_aside(self) -> None:
        aside = self.path.with_name(f"{self.path.stem}.damaged-{time.time_ns()}.json")
        os.replace(self.path, aside)
        print(f"{self.path.name} was damaged: set aside as {aside}, starting a new one.")

    def _save(self, record: dict) -> None:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(record, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise
