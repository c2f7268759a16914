"""Arrays that remember how they were made, so that a gradient finds its way back.

An operation notes for each operand a *pull*: the function that turns the gradient of the result into the operand's.
`Tensor.backward` goes through the notes, last made first: all that was made from a result has its share handed down.
"""

from collections.abc import Callable
from itertools import count
from numbers import Real

import numpy as np

Axis = int | tuple[int, ...] | None
_numbers = count()


class Node:
    """A tensor's place in the graph: all that backward needs of it, which is not its value.

    A tensor knows its node and a node those of its operands; nothing points the other way. So there are no cycles, and
    a graph is gone with its last result. A value outlives its tensor only inside a pull that needs it.
    """

    __slots__ = ("__weakref__", "dtype", "edges", "grad", "name", "number", "requires_grad", "shape")

    def __init__(self, name: str, value: np.ndarray, requires_grad: bool, edges: tuple = ()):
        self.name, self.shape, self.dtype, self.requires_grad = name, value.shape, value.dtype, requires_grad
        self.edges = edges  # (operand's node, pull) where a gradient is wanted; () for a leaf, None once freed
        self.grad, self.number = None, next(_numbers)

    def receive(self, gradient: object, source: np.ndarray | None = None) -> None:
        """Add `gradient`, which was pulled from the gradient `source`, to what is here."""
        gradient = np.asarray(gradient, self.dtype)
        if gradient.shape != self.shape:
            gradient = unbroadcast(gradient, self.shape)
        if self.edges != ():  # never in place: pulls may hand on the very array that they were given
            self.grad = gradient if self.grad is None else np.asarray(self.grad + gradient)
        elif not np.isfinite(gradient).all():
            raise FloatingPointError(f"the gradient of {self.name or 'a leaf'} {self.shape} is not finite")
        elif self.grad is None:
            self.grad = gradient.copy() if gradient is source or gradient.base is not None else gradient
        else:
            self.grad += gradient


def record(name: str, value: object, *operands: tuple["Tensor", Callable]) -> "Tensor":
    """The tensor of `value`, made by the operation `name` from `operands`, each given with its pull.

    A pull may leave repeated axes for the engine to sum; it must not write into what it is given.
    """
    edges = tuple([(operand.node, pull) for operand, pull in operands if operand.node.requires_grad])
    result = Tensor.__new__(Tensor)
    result._data = value = np.asarray(value)
    value.flags.writeable = False
    result.node = Node(name, value, bool(edges), edges)
    return result


def operation(name: str, compute: Callable, *make_pulls: Callable) -> Callable:
    """An operation on one or two tensors: ``compute(x, y)``, and for each a ``make_pull(result, x, y)``."""

    def apply(a, *b):
        operands = (a, *[as_tensor(each, a.dtype) for each in b])
        values = [operand.data for operand in operands]
        try:
            out = compute(*values)
        except ValueError:
            raise ValueError(f"the shapes do not fit: {f' {name} '.join(str(x.shape) for x in values)}") from None
        return record(name, out, *[(x, make(out, *values)) for x, make in zip(operands, make_pulls, strict=True)])

    return apply


class Tensor:
    """An array with a gradient, from anything that `np.asarray` takes (copied if it requires a gradient).

    >>> w = Tensor([2.0, 3.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> w.grad
    array([4., 6.])
    """

    __slots__ = ("_data", "node")
    __array_ufunc__ = None  # array * tensor is ours to answer, not NumPy's

    def __init__(self, data: object, requires_grad: bool = False, name: str = ""):
        value = np.array(data) if requires_grad else np.asarray(data)
        if requires_grad and value.dtype.kind != "f":
            raise TypeError(f"only floating-point numbers have gradients; {name or 'this array'} is {value.dtype}")
        self.node, self._data = Node(name, value, requires_grad), value.view()
        self._data.flags.writeable = False

    @property
    def data(self) -> np.ndarray:
        """The value, read-only, for a graph may need it. A leaf gets a new one: ``w.data = w.data - step``."""
        return self._data

    @data.setter
    def data(self, value: np.ndarray) -> None:
        if self.node.edges != () or value.shape != self.shape or value.dtype != self.dtype:
            raise ValueError(f"only a leaf's value can be replaced, and this one stays {self.dtype} {self.shape}")
        self._data = value.view()
        self._data.flags.writeable = False

    shape = property(lambda self: self._data.shape, doc="Of the value.")
    dtype = property(lambda self: self._data.dtype, doc="Of the value, and of the gradient.")
    grad = property(lambda self: self.node.grad, lambda self, value: setattr(self.node, "grad", value), doc="Summed.")
    T = property(lambda self: self.transpose(), doc="All axes reversed.")

    def graph(self) -> list[Node]:
        """The nodes that backward goes through, operands before results."""
        found, todo = {self.node}, [self.node]
        while todo:  # not by recursion: a graph may be deeper than Python's stack
            node = todo.pop()
            if node.edges is None:
                raise RuntimeError("this graph was freed by an earlier backward: use backward(retain_graph=True) there")
            new = {operand for operand, _ in node.edges} - found
            found |= new
            todo += new
        return sorted(found, key=lambda node: node.number)  # operands are made before what is made from them

    def backward(self, gradient: object = None, retain_graph: bool = False) -> None:
        """Add this result's gradient to every leaf that requires one, starting from `gradient` (1 for a scalar).

        The graph is freed on the way, unless `retain_graph` keeps it, with the gradients of all results in it.
        """
        if not self.node.requires_grad:
            raise RuntimeError("backward has nowhere to go: nothing that this was made from requires a gradient")
        start = np.ones_like(self._data) if gradient is None else np.array(gradient, self.dtype)
        if start.shape != self.shape or (gradient is None and start.size != 1):
            raise ValueError(f"backward from a tensor of shape {self.shape} needs a gradient of that shape")
        if not np.isfinite(self._data).all():
            raise FloatingPointError(f"backward from a value that is not finite: {self._data.ravel()[:4]}")
        nodes = [node for node in self.graph() if node.edges]
        for node in nodes:
            node.grad = None
        self.node.receive(start)
        while nodes:
            node = nodes.pop()
            for operand, pull in node.edges:
                operand.receive(pull(node.grad), node.grad)
            if not retain_graph:
                node.edges = node.grad = None

    __add__ = __radd__ = operation("+", np.add, lambda o, x, y: lambda g: g, lambda o, x, y: lambda g: g)
    __sub__ = operation("-", np.subtract, lambda o, x, y: lambda g: g, lambda o, x, y: np.negative)
    __mul__ = __rmul__ = operation("*", np.multiply, lambda o, x, y: lambda g: g * y, lambda o, x, y: lambda g: g * x)
    __truediv__ = operation("/", np.divide, lambda o, x, y: lambda g: g / y, lambda o, x, y: lambda g: -g * o / y)
    __rsub__ = operation("-", lambda x, y: y - x, lambda o, x, y: np.negative, lambda o, x, y: lambda g: g)
    __rtruediv__ = operation(
        "/", lambda x, y: y / x, lambda o, x, y: lambda g: -g * o / x, lambda o, x, y: lambda g: g / x
    )
    __neg__ = operation("neg", np.negative, lambda o, x: np.negative)
    _matmul = operation("@", np.matmul, lambda o, x, y: lambda g: g @ y.mT, lambda o, x, y: lambda g: x.mT @ g)

    def __matmul__(self, other):
        other = as_tensor(other, self.dtype)
        if other.data.ndim == 1:  # a vector is a matrix of one column, or of one row
            return (self @ other.reshape(-1, 1))[..., 0]
        return (self.reshape(1, -1) @ other)[..., 0, :] if self.data.ndim == 1 else self._matmul(other)

    def __rmatmul__(self, other):
        return as_tensor(other, self.dtype) @ self

    def __pow__(self, k: Real):
        x = self.data
        return record(f"**{k:g}", x**k, (self, lambda g: g * (k * x ** (k - 1)) if k else np.zeros_like(g)))

    def sum(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Over `axis`, or over everything."""
        total, shape = self.data.sum(axis, keepdims=True), self.shape
        kept = total.shape
        value = total if keepdims else total.squeeze(axis)
        return record("sum", value, (self, lambda g: np.broadcast_to(g.reshape(kept), shape)))

    def mean(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Over `axis`, or over everything; the mean of nothing is not a number."""
        total = self.sum(axis, keepdims)
        n = self.data.size // max(total.data.size, 1)
        return total * (1 / n if n else np.nan)

    def max(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """The largest along `axis`, or of all; equals share the gradient."""
        top = self.data.max(axis, keepdims=True)
        here, kept = self.data == top, top.shape
        share = lambda g: g.reshape(kept) * here / here.sum(axis, keepdims=True)  # noqa: E731
        return record("max", top if keepdims else top.squeeze(axis), (self, share))

    def reshape(self, *shape: int) -> "Tensor":
        """The same numbers in another shape; one -1 is worked out."""
        before = self.shape
        return record("reshape", self.data.reshape(shape), (self, lambda g: g.reshape(before)))

    def transpose(self, *axes: int) -> "Tensor":
        """The axes in another order; reversed if none is given."""
        order = [axis % self.data.ndim for axis in axes or range(self.data.ndim)[::-1]]
        return record("transpose", self.data.transpose(order), (self, lambda g: g.transpose(np.argsort(order))))

    def __getitem__(self, index):
        shape = self.shape

        def pull(g):
            whole = np.zeros(shape, g.dtype)
            np.add.at(whole, index, g)  # an entry taken twice gets both gradients
            return whole

        return record("[]", self.data[index], (self, pull))


def as_tensor(value: object, dtype: np.dtype) -> Tensor:
    """`value` as a tensor; a single number in `dtype`, if that has fractions: fp32 stays fp32."""
    if isinstance(value, Tensor):
        return value
    return Tensor(np.asarray(value, dtype if isinstance(value, Real) and dtype.kind == "f" else None))


def unbroadcast(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum `gradient` over the axes along which an operand of `shape` was repeated."""
    added = gradient.ndim - len(shape)
    repeated = [added + i for i, n in enumerate(shape) if n == 1]
    return gradient.sum((*range(added), *repeated), keepdims=True).reshape(shape)
