"""Memory in pages of 2 MiB, for what is read from end to end at each step.

A processor looks up where each page of memory lies, and the usual ones have 4 KiB: a model of half a gigabyte is
130,000 of them at each token, and reading ahead ends with each. Linux gives larger ones to whom it is told that they
are worth it; NumPy tells it for each array above 4 MiB, and PyTorch does not. Elsewhere this is memory like any other.
"""

import numpy as np
import torch
from torch import Tensor

LINE = 128  # bytes, where each tensor begins: processors hand memory to each other in lines of 64 or 128
SMALL = 2**16  # bytes: below, a page of its own is not worth it
AT_ONCE = 2**26  # bytes: memory that is asked for at a time, and costs nothing until it is written to


class HugePages:
    """Room for the matrices of a model, one behind the other.

    >>> pages = HugePages()
    >>> weight = torch.ones(256, 256)
    >>> copy = pages.copy(weight)
    >>> torch.equal(copy, weight), copy.data_ptr() % LINE, pages.copy(weight).data_ptr() - copy.data_ptr()
    (True, 0, 262144)
    """

    def __init__(self):
        self._free = np.empty(0, np.uint8)

    def copy(self, tensor: Tensor) -> Tensor:
        """The same numbers here; the tensor itself, if it is small, or on a GPU."""
        if tensor.nbytes < SMALL or tensor.device.type != "cpu":
            return tensor
        return self._room(tensor.shape, tensor.dtype).copy_(tensor)

    def move(self, tensor: Tensor) -> None:
        """Bring it here, once, however often it is asked for. Whoever has its memory from before keeps that."""
        if not hasattr(tensor, "in_huge_pages"):
            tensor.data = self.copy(tensor.detach())
            tensor.in_huge_pages = True

    def joined(self, tensors: list[Tensor]) -> Tensor:
        """`torch.cat` of them, here."""
        shape = (sum(len(tensor) for tensor in tensors), *tensors[0].shape[1:])
        n_bytes = sum(tensor.nbytes for tensor in tensors)
        if n_bytes < SMALL or tensors[0].device.type != "cpu":
            return torch.cat(tensors)
        return torch.cat(tensors, out=self._room(shape, tensors[0].dtype))

    def _room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        whole_lines = -(-n_bytes // LINE) * LINE
        if whole_lines > len(self._free):
            self._free = from_line(np.empty(max(whole_lines, AT_ONCE) + LINE, np.uint8))
        room, self._free = self._free[:n_bytes], self._free[whole_lines:]
        return torch.from_numpy(room).view(dtype).view(shape)  # whoever saves it saves these bytes alone


def from_line(memory: np.ndarray) -> np.ndarray:
    """Bytes without as many as a line has, from where a line begins.

    >>> from_line(np.zeros(LINE + 5, np.uint8)).ctypes.data % LINE, len(from_line(np.zeros(LINE + 5, np.uint8)))
    (0, 5)
    """
    begin = -memory.ctypes.data % LINE
    return memory[begin : len(memory) - LINE + begin]


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None = None) -> Tensor:
    """`torch.zeros` in such pages, on a CPU; those that are never written to take no memory.

    >>> zeros((2, 3), torch.float16).sum().item()
    0.0
    """
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    if torch.device(device or "cpu").type != "cpu" or n_bytes < SMALL:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(from_line(np.zeros(n_bytes + LINE, np.uint8))).view(dtype).view(shape)
