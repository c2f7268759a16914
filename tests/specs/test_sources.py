"""No bare numbers: every figure says unit, meaning and source, and nothing that is due to be one is a plain float."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping

import pytest

from llmhw_helpers import specs
from llmhw_helpers.specs.figures import Figure
from llmhw_helpers.specs.measured import measured_rows

MODULES = [importlib.import_module(f"{specs.__name__}.{found.name}") for found in pkgutil.iter_modules(specs.__path__)]
TABLES = {
    f"{m.__name__}.{n}": t
    for m in MODULES
    for n, t in vars(m).items()
    if n.isupper() and n[0] != "_" and isinstance(t, Mapping)
} | {"measured.csv": {row.id: row for row in measured_rows()}}


def faults(value, path, has_source=False):
    """What is wrong below `value`. A record with a source of its own covers the bare numbers in it."""
    if isinstance(value, Figure):
        yield from figure_faults(value, path)
    elif dataclasses.is_dataclass(value):
        source = getattr(value, "source", None)
        if source is not None and not (isinstance(source, str) and source.strip()):
            yield f"{path}.source is empty"
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            yield from faults(inner, f"{path}.{field.name}", has_source or bool(source))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from faults(inner, f"{path}[{key!r}]", has_source)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, inner in enumerate(value):
            yield from faults(inner, f"{path}[{index}]", has_source)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and not has_source:
        yield f"{path} is the bare number {value}"


def figure_faults(figure, path):
    for name in ("meaning", "source"):
        text = getattr(figure, name)
        if not (isinstance(text, str) and text.strip()):
            yield f"{path}.{name} is empty"
    if not isinstance(figure.unit, str) or figure.unit != figure.unit.strip():
        yield f'{path}.unit is no text ("" stands for a pure number)'
    if "FACTS" in figure.source:
        yield f"{path}.source is not public"
    if figure.value is not None and not isinstance(figure.value, (int, float)):
        yield f"{path}.value is {figure.value!r}"


def reached(value):
    """Every dataclass of which an instance lies in `value`."""
    if dataclasses.is_dataclass(value):
        yield type(value)
        yield from reached([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, Mapping):
        yield from reached(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from reached(inner)


@pytest.mark.parametrize("name", TABLES)
def test_every_number_has_unit_meaning_and_source(name):
    assert list(faults(TABLES[name], name)) == []


def test_every_dataclass_of_specs_is_walked():
    defined = {v for m in MODULES for v in vars(m).values() if isinstance(v, type) and dataclasses.is_dataclass(v)}
    assert defined == {kind for table in TABLES.values() for kind in reached(table)}


@dataclasses.dataclass(frozen=True)
class Bare:
    watts: float


@dataclasses.dataclass(frozen=True)
class Sourced:
    watts: float
    source: str


GOOD = Figure(1.0, "", "meaning", "source")


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (Bare(300.0), "x.watts is the bare number 300.0"),
        ({"a": [Bare(300)]}, "x['a'][0].watts is the bare number 300"),
        (Sourced(300.0, " "), "x.source is empty"),
        (dataclasses.replace(GOOD, meaning=""), "x.meaning is empty"),
        (dataclasses.replace(GOOD, source=" "), "x.source is empty"),
        (dataclasses.replace(GOOD, source="FACTS: x"), "x.source is not public"),
        (dataclasses.replace(GOOD, unit=" "), 'x.unit is no text ("" stands for a pure number)'),
    ],
)
def test_the_walk_finds_each_fault(value, fault):
    assert fault in list(faults(value, "x"))


def test_the_walk_passes_what_is_right():
    assert list(faults({"a": (GOOD, Sourced(300.0, "sheet"), dataclasses.replace(GOOD, value=None))}, "x")) == []
