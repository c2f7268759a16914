"""Jinja's sandbox for programs from elsewhere, with a bound on what one writing may take.

The sandbox keeps a template from reaching the machine; it lets it loop for ever, call itself twice a thousand times
over, and ask for ``'a' * 10**9``. Here every step, item and letter is paid from a purse, before it is made wherever
its size can be known before.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from jinja2 import TemplateError, nodes
from jinja2.runtime import Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST = {
    "steps": 100_000,  # turns of loops, calls and filters
    "items": 300_000,  # of lists that are made or looked through
    "letters": 30_000_000,  # of all texts that are made on the way
}
MACRO_STEPS = 10  # a macro takes as long as some ten methods
MOST_NUMBER = 1_000_000  # that a function is given: widths, counts
MOST_BITS = 4096  # of a whole number
# Filters and methods whose result may be as long as two of their arguments multiplied.
MULTIPLY = {"replace", "join", "indent", "wordwrap", "expandtabs", "translate", "batch", "slice", "xmlattr"}
PURSES: ContextVar[dict[str, int]] = ContextVar("what a template may still take")


class TooMuch(TemplateError):
    """A template that would take more than it may."""


@contextmanager
def purses() -> Iterator[None]:
    """New ones, for one writing."""
    token = PURSES.set(dict(MOST))
    try:
        yield
    finally:
        PURSES.reset(token)


def _pay(what: str, n: int) -> None:
    left = PURSES.get()
    left[what] -= n
    if left[what] < 0:
        raise TooMuch(f"it takes more than {MOST[what]:,} {what}")


def _letters(values: Iterable[object]) -> int:
    """Of all texts within. Each item is paid for, so that lists of lists of lists come to an end."""
    total, waiting = 0, list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            total += len(value)
            continue
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise TooMuch(f"it makes a number of {value.bit_length():,} bits")
        inner = [*value, *value.values()] if isinstance(value, Mapping) else value
        if isinstance(inner, list | tuple | set):
            _pay("items", len(inner))
            waiting += inner
    return total


def _check_arguments(name: str, values: tuple) -> None:
    """Before a function is called: no number that makes it work for ever, no product of lengths that fills memory."""
    _pay("steps", 1)
    numbers = [each for each in values if isinstance(each, int | float)]
    if name != "safe_range" and any(not abs(each) <= MOST_NUMBER for each in numbers):  # that one bounds itself
        raise TooMuch(f"{name} is given a number of more than {MOST_NUMBER:,}")
    texts = [each for each in values if isinstance(each, str)]
    if name in ("format", "format_map", "%") and any(re.search(r"\d{6}", each) for each in texts):
        raise TooMuch(f"{name} is asked for a width of more than 99,999")
    if name in MULTIPLY:
        lengths = [_letters([each]) + (len(each) if isinstance(each, list | tuple) else 0) for each in values]
        *_, second, first = sorted([0, 0, *lengths, *(abs(int(each)) for each in numbers)])
        if first * second > MOST["letters"]:
            raise TooMuch(f"{name} may make more than {MOST['letters']:,} letters")


def _counted(value: object) -> object:
    """The same, paid for: a text by its letters, a list by its items, whose texts are there already.

    A generator is handed on: its items are paid for where they are used.
    """
    letters = _letters([value])
    if isinstance(value, str):
        _pay("letters", letters)
    return value


def _shown(value: object) -> object:
    """The same, whose text is about to be written."""
    _pay("letters", _letters([value]))
    return value


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Renders as Jinja's sandbox does, or raises `TooMuch`; only inside `purses`."""

    intercepted_binops = frozenset(("+", "*", "**", "%", "//", "/", "-"))

    def __init__(self, **options):
        super().__init__(**options)
        self.globals.pop("lipsum")
        self.filters = {name: _bounded_filter(name, function) for name, function in self.filters.items()}
        self.filters |= {"_turns": _turns, "_joined": _joined, "_counted": _counted, "_shown": _shown}

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """What a block, a macro or the whole template has written."""
        found = []
        for each in parts:
            _pay("letters", len(each))
            found.append(each)
        return "".join(found)

    def call(self, context, function, *args, **kwargs):
        """Of whatever a template calls: methods of its values, macros, functions."""
        name = getattr(function, "__name__", type(function).__name__)
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)  # Jinja wraps `format`
        if isinstance(function, Macro):
            _pay("steps", MACRO_STEPS)
        _check_arguments(name, (*([owner] if isinstance(owner, str) else []), *args, *kwargs.values()))
        return _counted(super().call(context, function, *args, **kwargs))

    def call_binop(self, context, operator: str, left, right):
        """An operator, with what it will make known before."""
        numbers = isinstance(left, int) and isinstance(right, int)
        if operator == "**" and not (numbers and abs(right) <= MOST_BITS and abs(left) <= MOST_NUMBER):
            raise TooMuch("it takes a power of numbers that large")
        if operator == "*" and not numbers:
            for each, times in ((left, right), (right, left)):
                if isinstance(each, str | list | tuple) and isinstance(times, int):
                    _pay("letters", max(0, len(each) * times))
        if operator == "%" and isinstance(left, str):
            _check_arguments("%", (left, *(right if isinstance(right, tuple) else (right,))))
        return _counted(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = _through(loop.iter, "_turns")
        _replace(tree)
        return tree.set_environment(self)


def _through(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None).set_lineno(node.lineno)


def _replace(node: nodes.Node) -> None:
    """``a ~ b`` and lists, of which Jinja asks nobody, go through filters of ours."""
    for field, value in node.iter_fields():
        children = value if isinstance(value, list) else [value]
        for i, child in enumerate(children):
            if not isinstance(child, nodes.Node):
                continue
            _replace(child)
            if isinstance(child, nodes.Concat):
                new = _through(nodes.List(child.nodes).set_lineno(child.lineno), "_joined")
            elif isinstance(child, nodes.List | nodes.Dict) or (isinstance(child, nodes.Tuple) and child.ctx == "load"):
                new = _through(child, "_counted")
            elif isinstance(child, nodes.Output):
                child.nodes = [
                    each if isinstance(each, nodes.TemplateData) else _through(each, "_shown") for each in child.nodes
                ]
                continue
            elif isinstance(child, nodes.Compare):
                child.expr = _through(child.expr, "_counted")
                for operand in child.ops:
                    operand.expr = _through(operand.expr, "_counted")
                continue
            else:
                continue
            if isinstance(value, list):
                value[i] = new
            else:
                setattr(node, field, new)


def _turns(items: Iterable[object]) -> Iterator[object]:
    for each in items:
        _pay("steps", 1)
        yield each


def _joined(values: list[object]) -> str:
    _pay("letters", _letters(values))
    return "".join(map(str, values))


def _bounded_filter(name, function):
    """The same, with its arguments looked at before and its result paid for."""

    def bounded(*args, **kwargs):
        _check_arguments(name, (*(each for each in args if isinstance(each, _PLAIN)), *kwargs.values()))
        return _counted(function(*args, **kwargs))

    for mark in ("jinja_pass_arg", "jinja_async_variant"):
        if hasattr(function, mark):
            setattr(bounded, mark, getattr(function, mark))
    return bounded


_PLAIN = (str, int, float, list, tuple, set, Mapping, Undefined)
