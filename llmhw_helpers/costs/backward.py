"""The backward pass, operation by operation: what is alive at each, and which of them is the fullest.

Blocks that are alike follow each other, and from one to the next what is alive changes by the same bytes: it lies on a
straight line. A straight line is highest at an end, so of all blocks alike the first and last ones are looked at,
and those between are stepped over. So 126 layers cost as much as four.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..specs.architectures import Model
from .activations import block_kept, block_operations, first_operations, keeps_its_input, last_operations
from .operations import Operation, Pass


@dataclass(frozen=True)
class Phase:
    """What is in memory at the fullest moment of a phase, in bytes.

    Attributes:
        name: ``"forward"``, ``"backward"`` or ``"step"``.
        parts: by what it is; ``"working"`` are gradients of activations, or the optimizer's temporaries.
        at: the operation that it happens at.
    """

    name: str
    parts: dict[str, int]
    at: str

    @property
    def bytes(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Unit:
    """Neighbours in the backward pass: `times` blocks alike, or what lies on one side of the blocks.

    Attributes:
        operations: of one of them, in the order of the backward pass.
        times: how many alike there are.
        layer: number of the first that the backward pass meets; None on the sides.
    """

    operations: tuple[Operation, ...]
    times: int = 1
    layer: int | None = None

    @cached_property
    def n_params(self) -> int:
        """Parameters of one of them."""
        return sum(operation.n_weights for operation in self.operations)

    def at(self, i: int, operation: Operation) -> str:
        """Where an operation of the i-th of them is, in words."""
        return operation.name if self.layer is None else f"block {self.layer - i}, {operation.name}"


def units(model: Model, run: Pass, first: bool = True, last: bool = True) -> list[Unit]:
    """A whole backward pass in order: the loss and head, the blocks, the embedding.

    Args:
        model: of a kind that `costs.activations` knows.
        run: batch and choices of the pass.
        first, last: whether the embedding, and the head with the loss, are there: in a pipeline only at its ends.
    """
    found = [Unit(tuple(reversed(last_operations(model, run))))] if last else []
    layer = model.n_layers
    for n in (model.n_moe_layers, model.n_layers - model.n_moe_layers):  # the dense ones are the first
        if n:
            found.append(Unit(tuple(_of_block(model, run, layer - 1)), n, layer - 1))
        layer -= n
    return found + ([Unit(tuple(reversed(first_operations(model, run))))] if first else [])


def ends(unit: Unit) -> Iterator[tuple[int, int]]:
    """Which of the blocks to look at: each with how many like the one before it were stepped over.

    The second and the last but one are among them: the first has none before it whose gradients are on their way, and
    the last none after it whose parameters are gathered already, so that the straight line lies between those two.
    """
    n = unit.times
    looked_at = sorted({0, n - 1} | {i for i in (1, n - 2) if 0 < i < n})
    for i, before in zip(looked_at, [-1, *looked_at], strict=False):
        yield i, i - before - 1


@dataclass(frozen=True)
class Gradients:
    """How gradients come and where they stay; without the later fields on one GPU, which keeps each where it was made.

    Attributes:
        made, settled: bytes of one as the backward pass makes it, and as the optimizer finds it.
        exist: those of a micro-batch before are there, and new ones are added to them.
        n_ranks: that keep a share each.
        reduced: bytes of one on its way to the ranks that share; 0 where nobody shares.
        gathered: bytes of a parameter that is gathered for the time of its unit; 0 where all are there anyway.
        stay: what was gathered in the forward pass stays until its backward.
    """

    made: int
    settled: int
    exist: bool = False
    n_ranks: int = 1
    reduced: int = 0
    gathered: int = 0
    stay: bool = False

    def share(self, n_params: int) -> int:
        """Bytes of a rank's share of so many gradients."""
        return -(-n_params // self.n_ranks) * self.settled


def fullest(units: list[Unit], held: dict[str, int], kept: int, rule: Gradients) -> Phase:
    """Walk the operations of a backward pass, and give the fullest moment.

    Where gradients are shared, a block is a unit: its parameters are gathered before it, and those of the next one,
    too; its gradients are whole until it is done, are copied for the reduce-scatter, and that copy stays until the
    next block's takes its place. All that lies around the blocks is one unit from the start to the end (FSDP2:
    ``fully_shard`` of each block, and then of the model).

    Args:
        units: as from `units`.
        held: bytes by part that are there all the time.
        kept: bytes of activations when the backward pass begins.
        rule: of the gradients.
    """
    return _Walk(units, held, kept, rule).best


class _Walk:
    """What is alive, followed from the loss to the embedding.

    Attributes:
        now: bytes; ``whole`` are gradients of a block that is not done, ``around`` those around the blocks, ``sent`` a
            copy that is being reduced, ``waiting`` the parameters of blocks whose backward is to come.
        best: the fullest moment up to here.
    """

    def __init__(self, units: list[Unit], held: dict[str, int], kept: int, rule: Gradients):
        self.held, self.rule, self.best = held, rule, None
        n_blocks = sum(unit.times * unit.n_params for unit in units if unit.layer is not None)
        self.n_around = sum(unit.n_params for unit in units if unit.layer is None)
        self.now = dict.fromkeys(("working", "settled", "whole", "around", "sent"), 0)
        self.now |= {"activations": kept, "waiting": n_blocks * rule.gathered}
        if rule.exist:
            self.now["settled"] = rule.share(n_blocks + self.n_around)
        for unit, after in itertools.zip_longest(units, units[1:]):
            self._unit(unit, after.n_params if after and after.layer is not None else 0)
        if rule.reduced:
            self._reduce(self.n_around, "around", 0, "reduce-scatter")

    def _unit(self, unit: Unit, n_after: int):
        change = dict.fromkeys(self.now, 0)
        for i, skipped in ends(unit):
            self.now = {name: n + skipped * change[name] for name, n in self.now.items()}
            before = dict(self.now)
            n_next = unit.n_params if i + 1 < unit.times else n_after
            for operation in unit.operations:
                self._operate(operation, unit, n_next, unit.at(i, operation))
            if unit.layer is not None:
                self._reduce(unit.n_params, "whole", n_next, unit.at(i, Operation("reduce-scatter")))
            change = {name: n - before[name] for name, n in self.now.items()}

    def _operate(self, operation: Operation, unit: Unit, n_next: int, at: str):
        now, new = self.now, operation.n_weights * self.rule.made
        here, block = "around" if unit.layer is None else "whole", unit.n_params if unit.layer is not None else 0
        n_next = 0 if operation.name == "loss" else n_next  # it lies outside of what gathers
        # to those that are there, at once; a unit whose parameters are gathered waits until it is done
        added = self.rule.exist and not self.rule.reduced and not self.rule.gathered
        now[here] += 0 if added else new
        gathered = (self.n_around + block + n_next) * self.rule.gathered
        self._look(at, operation.makes + (new if added else 0), gathered)
        now["working"] += operation.makes - operation.drops
        now["activations"] -= operation.kept

    def _reduce(self, n_params: int, of: str, n_next: int, at: str):
        """Gradients of a unit that is done: kept as they are, or reduced to a share."""
        now, rule = self.now, self.rule
        if rule.reduced:
            now["sent"], now["waiting"] = n_params * rule.reduced, now["waiting"] - n_params * rule.gathered
            around = 0 if of == "around" else self.n_around
            self._look(at, 0, (around + n_next) * rule.gathered)
        now[of], now["settled"] = 0, now["settled"] + (0 if rule.exist else rule.share(n_params))

    def _look(self, at: str, working: int, gathered: int):
        now, rule = self.now, self.rule
        parts = self.held | {
            "gradients": now["settled"] + now["whole"] + now["around"] + now["sent"],
            "activations": now["activations"],
            "working": now["working"] + working,
        }
        if rule.gathered:
            parts["gathered"] = (self.n_around * rule.gathered + now["waiting"]) if rule.stay else gathered
        if self.best is None or sum(parts.values()) > self.best.bytes:
            self.best = Phase("backward", parts, at)


def _of_block(model: Model, run: Pass, layer: int) -> list[Operation]:
    block = list(reversed(block_operations(model, run, layer)))
    if run.recompute != "full":
        return block
    held, whole = block_kept(model, run, layer), sum(operation.kept for operation in block)
    shared = held if keeps_its_input(run) else 0  # the input, kept already, is among what the block keeps
    again = Operation("recompute", kept=shared - whole)  # negative: it comes back
    return [again, *block, Operation("recompute", kept=held - shared)]
