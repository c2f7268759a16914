"""Checkpoints of a run on many ranks: each saves its own part, and any number of ranks can go on from them.

The work is done by torch.distributed.checkpoint. A tensor that is divided among ranks is a `DTensor` (`divided` makes
one); it is saved in pieces and comes back bit for bit, divided as whoever loads it asks. Around that this room sees to
what a long run needs: a checkpoint lies in a folder of its own that gets its name when all of it is on the disk, so
that a run that is killed while it saves leaves the last good one as it was; and one that is damaged, or of another
model, is refused in a line.

Load your own checkpoints only: PyTorch keeps their table of contents as a pickle, which can run code.
"""

import contextlib
import json
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from ..specs.json_text import parse_json, read_file
from ..specs.settings import OneLine

CONTENTS, CHUNK = "contents.json", 1 << 20
State = Mapping[str, object]  # tensors, or further states


class CheckpointError(OneLine, RuntimeError):
    """A checkpoint that cannot be saved or loaded; the message says which, why and, where it helps, what to do."""


class Checkpoints:
    """A folder of checkpoints of one run, named by their step. All ranks make one, and call each method together.

    Without `torch.distributed` it works for the one process that there is.

    Args:
        folder: on a file system that all ranks reach; made if missing, or `CheckpointError`.
        keep: the newest so many stay; older ones are deleted after a save.
        timeout_s: that ranks wait for one another.
    """

    def __init__(self, folder: str | Path, keep: int = 2, timeout_s: float = 120):
        if keep < 1:
            raise ValueError(f"at least one checkpoint is kept, not {keep}")
        self.folder, self.keep = Path(folder), keep
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.folder} is no folder for checkpoints: {error.strerror}") from None
        # Groups of their own: a save that goes on behind the training sends messages, and those of two things at once
        # must not be mixed up.
        self._group = self._talk = None
        if dist.is_initialized():
            limit = timedelta(seconds=timeout_s)
            self._group, self._talk = (dist.new_group(backend="gloo", timeout=limit) for _ in range(2))
        self._saving: Future | None = None

    def steps(self) -> list[int]:
        """Steps of which a whole checkpoint is there, oldest first."""
        found = (path.name.removeprefix("step-") for path in self.folder.glob("step-*") if (path / CONTENTS).exists())
        return sorted(int(name) for name in found if name.isdigit())

    def save(self, state: State, step: int) -> None:
        """Write `state`, nested dicts of tensors; when this returns, the checkpoint is whole and on the disk.

        A plain tensor is the same on all ranks, and saved once; what differs among them has to be a `DTensor`.

        Raises:
            CheckpointError: no room, no permission, something else than tensors, ranks that do not save the same, a
                step that is there already, or one before all that are kept.
        """
        self.wait()
        saving = self._begin(state, step)
        with self._together(f"saving step {step}"):
            writer, alone = _Summing(saving), self._group is None
            dcp.save(dict(state), storage_writer=writer, process_group=self._group, no_dist=alone)
            self._finish(state, saving, step)

    def save_async(self, state: State, step: int) -> None:
        """The same, and return as soon as `state` is copied: it may change while the copy is written.

        `wait`, or the next save, waits for the end, and raises what `save` raises.
        """
        if self._group is None:
            raise CheckpointError("save_async works among ranks (distributed.ranks, or torchrun): use save")
        self.wait()
        saving = self._begin(state, step)
        with self._together(f"saving step {step}"):
            written = dcp.async_save(dict(state), storage_writer=_Summing(saving), process_group=self._group)
        self._saving = _after(written, lambda: self._finish(state, saving, step))

    def wait(self) -> None:
        """Wait for a save that is going on, if there is one."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            with self._together("saving"):
                saving.result()

    def load(self, state: State, step: int | None = None) -> int:
        """Fill the tensors of `state` from the newest checkpoint, or from that of `step`; the step.

        Each tensor says what is wanted: its name, shape and format, and how it is divided among the ranks that are
        there now, which need not be as many as those that saved.

        Raises:
            CheckpointError: there is none, it is damaged, or it is of another model; `state` is then as it was.
        """
        self.wait()
        with self._together("loading", {"the step": step}):
            step = self._newest() if step is None else step
            path = self._path(step)
            _check(path, _contents(state), self._others(step))
        with self._together(f"loading {path.name}; {self._others(step)}"):
            dcp.load(dict(state), checkpoint_id=path, process_group=self._group, no_dist=self._group is None)
        return step

    def _begin(self, state: State, step: int) -> Path:
        """Whether it can be saved; the folder to save into, without what an earlier, killed save may have left."""
        path = self._path(step)
        with self._together("saving"):
            contents = _contents(state)
            if not (isinstance(step, int) and step >= 0):
                raise CheckpointError(f"a step is a whole number from 0 on, not {step!r}")
            if path.exists():
                raise CheckpointError(f"{path.name} is there already: save another step, or in another folder")
            newer = [each for each in self.steps() if each > step]
            if len(newer) >= self.keep:
                raise CheckpointError(f"{path.name} would not be kept, as newer ones are: save in another folder")
        with self._together("saving", {"the step": step, **contents}):
            for left in self.folder.glob("saving-*") if _rank() == 0 else ():
                shutil.rmtree(left, ignore_errors=True)
        return self.folder / f"saving-{step}"

    def _finish(self, state: State, saving: Path, step: int) -> None:
        """On rank 0, when all ranks have written: give the folder its name, which is one act; older ones go."""
        if _rank() != 0:
            return
        sums = {each: json.loads(each.read_text()) for each in saving.glob("sums-*.json")}
        files = {name: told for each in sums.values() for name, told in each.items()} | _sums(saving, [".metadata"])
        (saving / CONTENTS).write_text(json.dumps({"step": step, "tensors": _contents(state), "files": files}))
        for each in sums:
            each.unlink()
        saving.rename(self._path(step))
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self._path(old), ignore_errors=True)

    @contextlib.contextmanager
    def _together(self, doing: str, same: Mapping[str, object] = MappingProxyType({})) -> Iterator[None]:
        """Run the block on every rank; if it fails on any, or `same` differs, raise a line on all: nobody waits."""
        failed = ""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process, as is meant
                yield
        except CheckpointError as error:
            failed = str(error)
        except CheckpointException as error:
            rank, (why, _) = min(error.failures.items())
            failed = f"{doing}: rank {rank}: {_line(why)}"
        except (OSError, RuntimeError, ValueError) as error:
            failed = f"{doing}: {_line(error)}"
        mine = failed, dict(same)
        told = [mine] * (dist.get_world_size() if self._talk is not None else 1)
        if self._talk is not None:
            dist.all_gather_object(told, mine, group=self._talk)
        if lines := [line for line, _ in told if line]:
            raise CheckpointError(lines[0])
        first = told[0][1]
        for rank, (_, other) in enumerate(told):
            if differing := [name for name in {**first, **other} if first.get(name) != other.get(name)]:
                name = differing[0]
                values = f"{first.get(name, 'missing')} on rank 0, and {other.get(name, 'missing')} on rank {rank}"
                raise CheckpointError(f"{doing}: the ranks differ: {name} is {values}")

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}"

    def _newest(self) -> int:
        if not (steps := self.steps()):
            raise CheckpointError(f"{self.folder} holds no whole checkpoint")
        return steps[-1]

    def _others(self, step: int) -> str:
        others = ", ".join(str(each) for each in self.steps() if each != step)
        return f"whole ones are of step {others}" if others else "there is no other one"


def divided(tensor: torch.Tensor, dim: int = 0) -> DTensor:
    """A tensor that all ranks have, as one of which each keeps its part along `dim`; nothing is sent.

    The rank's own part is `.to_local()`; parts differ by one row where the ranks do not divide them.
    """
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return distribute_tensor(tensor, mesh, [Shard(dim)], src_data_rank=None)


class _Summing(dcp.FileSystemWriter):
    """Writes as PyTorch does, and notes the length and checksum of the files that this rank wrote."""

    def write_data(self, plan, planner):
        written = super().write_data(plan, planner)
        files = {result.storage_data.relative_path for result in written.wait()}
        Path(self.path, f"sums-{_rank()}.json").write_text(json.dumps(_sums(Path(self.path), files)))
        return written


def _sums(folder: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Length and CRC-32 of each file, by name."""
    sums = {}
    for name in names:
        crc = 0
        with open(folder / name, "rb") as file:
            while chunk := file.read(CHUNK):
                crc = zlib.crc32(chunk, crc)
            sums[name] = [file.tell(), crc]
    return sums


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _flat(state: State, before: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            yield f"{before}{name}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            what = f"{before}{name} is a {type(value).__name__}"
            raise CheckpointError(f"{what}, and a checkpoint holds tensors: torch.tensor() makes one")


def _contents(state: State) -> dict[str, list]:
    """Format and whole shape of each tensor, by name."""
    return {name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in _flat(state)}


def _read_contents(path: Path) -> tuple[dict[str, list], dict[str, list[int]]]:
    try:
        told = parse_json(read_file(path / CONTENTS))
        tensors = {name: [str(dtype), list(map(int, shape))] for name, (dtype, shape) in told["tensors"].items()}
        return tensors, {name: [int(n), int(crc)] for name, (n, crc) in told["files"].items()}
    except FileNotFoundError:
        raise CheckpointError(f"{path} is no checkpoint of this course: it has no {CONTENTS}") from None
    except (OSError, OverflowError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path.name}: its {CONTENTS} cannot be read ({error})") from None


def _check(path: Path, wanted: Mapping[str, list], others: str) -> None:
    """Raises where the checkpoint is of another model, or a file of it is missing or has another length."""
    there, files = _read_contents(path)
    if missing := [name for name in wanted if name not in there]:
        raise CheckpointError(f"{path.name} is of another model: it has no {_few(missing)}; it has {_few(list(there))}")
    if more := [name for name in there if name not in wanted]:
        raise CheckpointError(f"{path.name} is of another model: it also has {_few(more)}")
    for name, (dtype, shape) in wanted.items():
        if there[name] != [dtype, shape]:
            has, asked = (f"{kind} of {' x '.join(map(str, sizes))}" for kind, sizes in (there[name], (dtype, shape)))
            raise CheckpointError(f"{path.name} is of another model: {name} is {has}, and {asked} is asked for")
    names = sorted(files)
    if short := [n for n in names if not (path / n).is_file() or (path / n).stat().st_size != files[n][0]]:
        raise CheckpointError(f"{path.name} is damaged: {_few(short)} is missing or cut short; {others}")
    mine = names[_rank() :: dist.get_world_size() if dist.is_initialized() else 1]  # all ranks together read all
    if changed := [name for name, found in _sums(path, mine).items() if found != files[name]]:
        raise CheckpointError(f"{path.name} is damaged: {_few(changed)} is not what was saved; {others}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _after(first: Future, then: Callable[[], None]) -> Future:
    """What `first` is, done when `then` has run after it."""
    both: Future = Future()

    def go_on(done: Future) -> None:
        try:
            done.result()
            both.set_result(then())
        except BaseException as error:
            both.set_exception(error)

    first.add_done_callback(go_on)
    return both


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
