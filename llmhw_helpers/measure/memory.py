"""Memory, counted in bytes: what a forward pass keeps for its backward, and what is alive at every operation."""

import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Kept:
    """Counts the tensors that autograd saves inside the block, each storage once; views share one.

    Args:
        excluded: tensors that are there anyway, such as the parameters.

    >>> x = torch.ones(1000, requires_grad=True)
    >>> with Kept() as kept:
    ...     kept.at("exponential")
    ...     y = x.exp()  # its derivative is its result
    ...     kept.at("sum")
    ...     total = y.sum()  # keeps nothing
    >>> kept.by_operation
    {'exponential': 4000}
    """

    def __init__(self, excluded: Iterable[torch.Tensor] = ()):
        self.by_operation: dict[str, int] = {}
        self._label = "all"
        self._seen = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in excluded)}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor)

    def at(self, label: str) -> None:
        """What is saved from here on is counted under `label`."""
        self._label = label

    @property
    def bytes(self) -> int:
        """All of them."""
        return sum(self.by_operation.values())

    def _save(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in self._seen:
            self._seen[id(storage)] = storage  # held, so that its id is not given to another
            self.by_operation[self._label] = self.by_operation.get(self._label, 0) + storage.nbytes()
        return tensor.detach()  # itself, if it is the operation's result, would never be let go: it holds the graph

    def __enter__(self) -> "Kept":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        self._seen.clear()


class MemoryMeter(TorchDispatchMode):
    """Counts the bytes of all tensors alive, after each of torch's operations inside the block.

    It sees what torch allocates as tensors, and neither what a kernel uses for itself, nor how an allocator rounds.
    Under FakeTensorMode it meters a model that no machine here could hold.

    Args:
        there: tensors that exist already.

    >>> with MemoryMeter() as meter:
    ...     x = torch.zeros(1000)
    ...     meter.phase = "second"
    ...     x = x + 1  # for a moment there are two
    ...     x = x[:10]  # a view keeps all of its storage
    >>> meter.peaks, meter.alive
    ({'first': 4000, 'second': 8000}, 4000)
    """

    def __init__(self, there: Iterable[torch.Tensor] = ()):
        super().__init__()
        self.alive, self.phase = 0, "first"
        self.timeline: list[tuple[str, str, int]] = []  # phase, operation, bytes alive after it
        self._sizes: dict[int, int] = {}
        for tensor in there:
            self._meet(tensor)

    @property
    def peaks(self) -> dict[str, int]:
        """The most bytes alive, by phase."""
        peaks: dict[str, int] = {}
        for phase, _, alive in self.timeline:
            peaks[phase] = max(alive, peaks.get(phase, 0))
        return peaks

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._meet(leaf)
        self.timeline.append((self.phase, str(func), self.alive))
        return result

    def _meet(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.alive += storage.nbytes()
            weakref.finalize(storage, self._part, key)

    def _part(self, key: int) -> None:
        self.alive -= self._sizes.pop(key)
