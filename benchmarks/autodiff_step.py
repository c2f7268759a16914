"""A training step of notebook 01's network (64-128-10, 64 images): this course's engine, eager PyTorch, single numbers.

    python benchmarks/autodiff_step.py [--threads 1]

All take turns in one run; what counts are the ratios. Each must first find the same gradient.
"""

import argparse
import gc
import os
import statistics
import time

SIZES, ROWS, RATE = (64, 128, 10), 64, 0.1


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="for NumPy's BLAS and for PyTorch alike")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    for library in ("OPENBLAS", "MKL", "OMP", "VECLIB"):
        os.environ[f"{library}_NUM_THREADS"] = str(arguments.threads)  # before NumPy is imported
    return arguments


class Number:
    """The peer without arrays: a number that knows what it was made from, and the slopes."""

    __slots__ = ("data", "grad", "operands", "slopes")

    def __init__(self, data, operands=(), slopes=()):
        self.data, self.operands, self.slopes, self.grad = data, operands, slopes, 0.0

    def __add__(self, other):
        return Number(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        return Number(self.data * other.data, (self, other), (other.data, self.data))


def number_step(x, y, arrays):
    """Forward and backward of one image; nodes are kept in the order in which they are made."""
    import math

    made = []

    def note(number):
        made.append(number)
        return number

    w1, b1, w2, b2 = [
        [[Number(v) for v in row] for row in a] if isinstance(a[0], list) else [Number(v) for v in a] for a in arrays
    ]

    def layer(inputs, w, b):
        outputs = []
        for j, total in enumerate(b):
            for i, value in enumerate(inputs):
                total = note(total + note(value * w[i][j]))
            outputs.append(total)
        return outputs

    hidden = [note(Number(max(h.data, 0.0), (h,), (float(h.data > 0),))) for h in layer([Number(v) for v in x], w1, b1)]
    logits = layer(hidden, w2, b2)
    exps = [math.exp(z.data) for z in logits]
    slopes = [e / sum(exps) - (k == y) for k, e in enumerate(exps)]
    loss = Number(math.log(sum(exps)) - logits[y].data, tuple(logits), tuple(slopes))
    loss.grad = 1.0
    for node in [loss, *reversed(made)]:
        for operand, slope in zip(node.operands, node.slopes, strict=True):
            operand.grad += slope * node.grad
    return w1


def main():
    arguments = parse()
    import numpy as np
    import torch

    from llmhw_helpers.autodiff.functions import cross_entropy, relu
    from llmhw_helpers.autodiff.tensor import Tensor

    torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)
    x, y = rng.random((ROWS, SIZES[0]), dtype=np.float32), rng.integers(0, SIZES[-1], ROWS)
    shapes = [(64, 128), (128,), (128, 10), (10,)]
    start = [(0.1 * rng.normal(size=shape)).astype(np.float32) for shape in shapes]
    ours = [Tensor(p, requires_grad=True) for p in start]
    theirs = [torch.tensor(p, requires_grad=True) for p in start]
    x_torch, y_torch, functional = torch.tensor(x), torch.tensor(y), torch.nn.functional
    layers = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.SGD(layers.parameters(), lr=RATE)

    def ours_step(update=True):
        w1, b1, w2, b2 = ours
        cross_entropy(relu(Tensor(x) @ w1 + b1) @ w2 + b2, y).backward()
        for p in ours if update else ():
            p.data, p.grad = p.data - RATE * p.grad, None

    def torch_step(update=True):
        w1, b1, w2, b2 = theirs
        functional.cross_entropy(torch.relu(x_torch @ w1 + b1) @ w2 + b2, y_torch).backward()
        with torch.no_grad():
            for p in theirs if update else ():
                p -= RATE * p.grad
                p.grad = None

    def module_step():
        optimizer.zero_grad()
        functional.cross_entropy(layers(x_torch), y_torch).backward()
        optimizer.step()

    ours_step(update=False), torch_step(update=False)
    lists = [p.tolist() for p in start]
    numbers = sum(
        np.array([[v.grad for v in row] for row in number_step(image.tolist(), int(label), lists)])
        for image, label in zip(x, y, strict=True)
    )
    np.testing.assert_allclose(ours[0].grad, theirs[0].grad.numpy(), atol=1e-6)
    np.testing.assert_allclose(numbers / ROWS, theirs[0].grad.numpy(), atol=1e-6)

    def timed(step, times):
        begin = time.perf_counter()
        for _ in range(times):
            step()
        return (time.perf_counter() - begin) / times

    image, label = x[0].tolist(), int(y[0])
    runs = {
        "ours": (ours_step, 20, 1),
        "torch, same expressions": (torch_step, 20, 1),
        "torch, nn.Linear and optim.SGD": (module_step, 20, 1),
        "single numbers": (lambda: number_step(image, label, lists), 1, ROWS),
    }
    gc.freeze()  # else the collector goes through all of torch each time that the single numbers pile up
    rounds = {name: [] for name in runs}
    for k in range(arguments.rounds + 3):
        for name, (step, times, factor) in runs.items():
            seconds = factor * timed(step, times)
            if k >= 3:
                rounds[name].append(seconds)
    print(
        f"{'-'.join(map(str, SIZES))}, {ROWS} images, {arguments.threads} thread(s), torch {torch.__version__}, ",
        end="",
    )
    print(f"NumPy {np.__version__}, {arguments.rounds} rounds in turns")
    print(f"{'':32}{'median':>10}{'ours / it':>12}")
    for name, seconds in rounds.items():
        ratio = statistics.median(a / b for a, b in zip(rounds["ours"], seconds, strict=True))
        print(f"{name:32}{statistics.median(seconds) * 1e6:7.0f} µs{ratio:12.3g}")


if __name__ == "__main__":
    main()
