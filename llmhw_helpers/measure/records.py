"""Small JSON files that outlive a kernel: written whole or not at all, shared by kernels, never lost in silence."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..files import alone, drafts
from ..specs.json_text import parse_json, read_file

_KEPT: dict[Path, list[Callable[[dict], None]]] = {}  # by file, changes that could not be saved: all of a kernel's
_ONE = threading.RLock()  # thread at a time: another's change must not come between a save and its end


class Record:
    """A dictionary in a file.

    Every change is read, made and written back under a lock, to a new file that replaces the old one in one step. What
    can go wrong costs one printed line and no data: without permission or space the record lives on in this kernel's
    memory, for every `Record` of that file; a file that is not a record any more is set aside under another name.

    Args:
        path: of the file; its folder is made.
        is_sound: whether a dictionary has the form that its user expects.
    """

    def __init__(self, path: Path, is_sound: Callable[[dict], bool] = lambda record: True):
        self.path = Path(path)
        self._is_sound = is_sound
        self._pending = _KEPT.setdefault(self.path.absolute(), [])

    def read(self) -> dict:
        """The record as it is now, with this kernel's unsaved changes; empty where there is none, or none to read."""
        with _ONE:
            try:
                return self._changed(self._load() or {})
            except OSError:
                return self._changed({})

    def update(self, change: Callable[[dict], None]) -> dict:
        """Let `change` edit the record in place, save it, and return it."""
        with _ONE:
            return self._update(change)

    def _update(self, change: Callable[[dict], None]) -> dict:
        self._pending.append(change)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with alone(self.path), drafts(self.path) as (file,):
                record = self._load()
                if record is None:
                    self._set_aside()
                record = self._changed(record or {})
                file.write(json.dumps(record, indent=1).encode())
            self._pending.clear()
            return record
        except OSError as error:
            if len(self._pending) == 1:  # said once, not at every change that follows
                kept = f"Not saved, kept in this kernel only: {self.path} ({error.strerror})"
                print(f"{kept}. LLMHW_HOME=FOLDER names another place.")
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
            record = parse_json(read_file(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError:  # neither JSON nor even text
            return None
        return record if isinstance(record, dict) and self._is_sound(record) else None

    def _set_aside(self) -> None:
        aside = self.path.with_name(f"{self.path.stem}.damaged-{time.time_ns()}.json")
        os.replace(self.path, aside)
        print(f"{self.path.name} was damaged: set aside as {aside}, starting a new one.")
