"""Calibration: this machine's own roofline, measured in a few seconds, kept per machine, shown with its spread."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..costs.roofline import Roof
from . import probes
from .machine import Machine, home, this_machine
from .records import Record
from .timers import measured

ROUNDS = 15  # short ones, so that some fall between what other programs do


@dataclass(frozen=True)
class Rate:
    """A measured rate: the best round is the roof, the median is what one usually gets.

    Attributes:
        unit: ``"FLOP/s"`` or ``"B/s"``.
        spread: (best - worst) / median over the rounds.
        note: what to know about it, such as an emulated format; empty for nothing.
    """

    unit: str
    best: float
    median: float
    spread: float
    note: str = ""


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found on one machine.

    Attributes:
        products: operations per second by format.
        missing: formats that torch cannot multiply here, each with the reason.
        read, copy: bytes per second from memory; a copy counts each byte twice, read and written.
        disk: bytes per second of a cold file; None where there was no file to read.
    """

    machine: Machine
    when: str
    products: dict[str, Rate]
    missing: dict[str, str]
    read: Rate
    copy: Rate
    disk: Rate | None

    def save(self) -> None:
        """Keep it for `load_calibration`."""
        _record(self.machine).update(lambda record: record.update(asdict(self)))

    def roof(self) -> Roof:
        """The machine's roofline: best products, best read."""
        return measured_roof({name: rate.best for name, rate in self.products.items()}, self.read.best)

    def half(self) -> str:
        """The faster of the two 16-bit formats here, whether or not it gains on fp32; fp32 where there is neither."""
        known = [name for name in ("bf16", "fp16") if name in self.products] or ["fp32"]
        return max(known, key=lambda name: self.products[name].best)

    def faster(self, other: "Calibration") -> "Calibration":
        """Of two calibrations of a machine that others use too, the higher roof of each limit.

        Not of the disk: whoever has used the file meanwhile would read it from the cache.
        """
        pick = lambda a, b: a if b is None or a.best >= b.best else b  # noqa: E731
        products = {name: pick(rate, other.products.get(name)) for name, rate in self.products.items()}
        read, copy = pick(self.read, other.read), pick(self.copy, other.copy)
        return Calibration(self.machine, other.when, products, self.missing, read, copy, self.disk)

    def __str__(self) -> str:
        rows = [(f"product, {name}", rate) for name, rate in self.products.items()]
        rows += [("memory, read", self.read), ("memory, copy", self.copy)]
        rows += [("disk, read", self.disk)] if self.disk else []
        lines = [f"{'':16}{'best':>15}{'median':>15}{'spread':>8}"]
        for name, rate in rows:
            best, median = measured(rate.best, rate.unit), measured(rate.median, rate.unit)
            lines.append(f"{name:16}{best:>15}{median:>15}{measured(f'{rate.spread:.0%}'):>8}")
        lines += [f"{'product, ' + name:16}none: {why}" for name, why in self.missing.items()]
        lines += [f"{name}: {rate.note}" for name, rate in rows if rate.note]
        return "\n".join(lines)


def measured_roof(products: Mapping[str, float], bytes_per_s: float) -> Roof:
    """A roofline from measured rates, operations by format and bytes per second.

    A format that is multiplied more slowly than fp32 can be widened to fp32 on its way to the multiplier, as programs
    for processors without a unit for it do. So no product is bound to be slower than fp32's, and the peak of each
    format is at least that: else its floor would be none.

    >>> measured_roof({"fp32": 80e9, "bf16": 13e9}, 20e9).peak("bf16")
    80000000000.0
    """
    widened = products.get("fp32", 0.0)
    return Roof("this machine", {name: max(rate, widened) for name, rate in products.items()}, bytes_per_s)


def calibrate(
    model_file: Path | None = None, save: bool = True, progress: bool = True, machine: Machine | None = None
) -> Calibration:
    """Measure this machine in under ten seconds, and keep the result.

    Args:
        model_file: a file to time the disk with, or a folder of them; the real model is a good one.
        save: keep the result for `load_calibration`.
        progress: show which limit is being pushed.
        machine: `this_machine`, or that without its GPU.
    """
    machine = machine or this_machine()
    device, products, missing = machine.device, {}, {}
    steps = tqdm(probes.candidates(machine), desc="calibrating", leave=False, disable=not progress)
    with torch.no_grad():
        for name in steps:
            steps.set_postfix_str(name)
            try:
                products[name] = _rate("FLOP/s", *probes.product_rate(name, device, ROUNDS))
            except RuntimeError as error:
                missing[name] = str(error).splitlines()[0][:80]
        read, copy = (_rate("B/s", *probe(device, ROUNDS)) for probe in (probes.read_rate, probes.copy_rate))
        disk = _rate("B/s", *probes.disk_rate(model_file, 3)) if model_file else None
    torch.backends.cuda.matmul.allow_tf32 = False
    products = {name: _with_note(name, rate, products["fp32"], machine) for name, rate in products.items()}
    if disk and (not probes.CAN_DROP_PAGES or disk.median > read.median / 3):
        disk = Rate(**asdict(disk) | {"note": "not cold: the system kept the file in its cache"})
    result = Calibration(machine, time.strftime("%Y-%m-%d %H:%M:%S"), products, missing, read, copy, disk)
    if save:
        result.save()
    return result


def load_calibration(machine: Machine | None = None) -> Calibration | None:
    """The last calibration of `machine`, this one without, or None."""
    machine = machine or this_machine()
    saved = _record(machine).read()
    try:
        rates = {name: _checked(rate) for name, rate in saved["products"].items()}
        read, copy = _checked(saved["read"]), _checked(saved["copy"])
        disk = _checked(saved["disk"]) if saved["disk"] is not None else None
        words = [saved["when"], *saved["missing"].values()]
        if "fp32" not in rates or not all(isinstance(word, str) for word in words):
            return None
        return Calibration(machine, saved["when"], rates, saved["missing"], read, copy, disk)
    except (AttributeError, KeyError, TypeError, ValueError):  # none yet, an older version's, or a damaged one
        return None


def _checked(saved: dict) -> Rate:
    """A rate from a file.

    Raises:
        TypeError, ValueError: it is none.
    """
    rate = Rate(**saved)
    figures = (rate.best, rate.median, rate.spread)
    right = all(type(figure) in (int, float) and 0 <= figure < 1e30 for figure in figures) and rate.best > 0
    if not right or rate.unit not in ("FLOP/s", "B/s") or not isinstance(rate.note, str):
        raise ValueError(f"no rate: {saved!s:.80}")
    return rate


def _record(machine: Machine) -> Record:
    return Record(home() / machine.key / "calibration.json")


def _rate(unit: str, amount: float, timing) -> Rate:
    rates = sorted(amount / seconds for seconds in timing.rounds)
    return Rate(unit, rates[-1], amount / timing.median, (rates[-1] - rates[0]) / (amount / timing.median))


def _with_note(name: str, rate: Rate, fp32: Rate, machine: Machine) -> Rate:
    note = ""
    if probes.in_hardware(name, machine) is False:
        note = f"emulated: this GPU has no {name} arithmetic"
    elif name not in ("fp32", "tf32") and rate.best < 1.1 * fp32.best:
        note = "no faster than fp32 here: torch uses no unit of its own for it"
    return Rate(**asdict(rate) | {"note": note})
