"""The GGUF file, as llama.cpp writes it: opened by memory map and dequantised by the gguf library, piece by piece."""

import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGUFValueType

from .gguf_keys import config_of
from .model_files import ROWS, BadModelFile

# The library takes some 6 kB for each tensor and 4 kB for each key: a file of small ones would take 200 times its size.
MOST_SMALL, BYTES_EACH = 2_000, 1_000  # of either in any file, and one more for so many of its bytes
MOST_PARTS = 99_999  # of a split model: their numbers have five digits in the names of files


class _Reader(gguf.GGUFReader):
    """The library's reader, which makes two arrays of each string: in a vocabulary's 100,000 they take seconds."""

    def _get_field_parts(self, orig_offs, raw_type):  # NumPy integers
        if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":
            return super()._get_field_parts(orig_offs, raw_type)
        kind, count = struct.unpack_from("<IQ", self.data, orig_offs)
        begin = orig_offs + 12
        if kind == GGUFValueType.STRING:
            end = begin
            for _ in range(count):
                end += 8 + struct.unpack_from("<Q", self.data, end)[0]
            parts = [self.data[begin:end]]
        elif kind in self.gguf_scalar_to_np:
            parts = [self._get(begin, self.gguf_scalar_to_np[GGUFValueType(kind)], count)]
            end = begin + parts[0].nbytes
        else:  # arrays in an array are passed over
            end = begin
            for _ in range(count):
                end += self._get_field_parts(end, kind)[0]
            parts = [self.data[begin:end]]
        return end - orig_offs, parts, [0], [GGUFValueType.ARRAY, GGUFValueType(kind)]


class _Metadata(Mapping):
    def __init__(self, reader: _Reader):
        self._fields = reader.fields

    def __getitem__(self, key: str) -> object:
        try:
            return self._decoded(self._fields[key])
        except UnicodeDecodeError:
            raise BadModelFile(
                f"the model file's {key} holds text that is no valid UTF-8: get the file again"
            ) from None

    def _decoded(self, field: gguf.ReaderField) -> object:
        if field.types.count(GGUFValueType.ARRAY) > 1:
            raise BadModelFile(f"the model file's {field.name} holds arrays in an array, which are not read here")
        if field.types != [GGUFValueType.ARRAY, GGUFValueType.STRING]:
            return field.contents()
        packed, at, strings = field.parts[field.data[0]].tobytes(), 0, []
        while at < len(packed):
            (length,) = struct.unpack_from("<Q", packed, at)
            strings.append(packed[at + 8 : at + 8 + length].decode())
            at += 8 + length
        return strings

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def open_gguf(path: Path, again: str) -> tuple[Mapping, Mapping, Mapping, Mapping[str, Callable]]:
    """Shapes, metadata, what a config.json would say, and by tensor name a function that fills a tensor.

    Raises:
        BadModelFile: no GGUF file, one with the bytes of its numbers the other way round, a part of a model, a type of
            tensor that the library does not know, a setting that is not computed here, or damage, with the advice
            `again`.
    """
    with open(path, "rb") as file:
        magic, version, counts = file.read(4), file.read(4), file.read(16)
    if magic != b"GGUF":
        raise BadModelFile(f"{path} is not a GGUF file: it begins with {magic!r}, not b'GGUF'")
    if is_big_endian(version):
        raise BadModelFile(f"{path} is big-endian, and little-endian files are read: gguf-convert-endian {path} little")
    most = MOST_SMALL + path.stat().st_size // BYTES_EACH
    if len(counts) == 16 and max(struct.unpack("<QQ", counts)) > most:
        n_tensors, n_keys = struct.unpack("<QQ", counts)
        raise BadModelFile(
            f"{path} says that it has {n_tensors} tensors and {n_keys} keys; a file of its size has {most} at most"
        )
    try:
        reader = _Reader(path)
    except Exception as error:  # the reader meets the end of the file in many ways
        if unknown := re.search(r"(\d+)\)? is not a valid GGMLQuantizationType", str(error)):
            kind = unknown[1]
            raise BadModelFile(f"{path} has a tensor of type {kind}, which the gguf library does not know") from None
        raise BadModelFile(
            f"{path} is truncated or damaged ({type(error).__name__}: {str(error)[:80]}); {again}"
        ) from error
    metadata = _Metadata(reader)
    _check_whole(path, metadata)
    shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
    config = config_of(path, metadata, shapes)
    head_dim = config.get("head_dim")
    fill = {tensor.name: partial(_dequantise, reader, path, tensor, head_dim) for tensor in reader.tensors}
    return shapes, metadata, config, fill


class StoredTensor(NamedTuple):
    """A tensor as it lies in a GGUF file.

    Attributes:
        kind: its format's name, such as "Q4_1".
        data: rows of bytes, or of numbers, in the mapped file; queries and keys in llama.cpp's order, in which the two
            numbers that rotate together are side by side.
    """

    kind: str
    data: np.ndarray


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file that `open_gguf` opens, by name; what is not touched is not read."""
    return {tensor.name: StoredTensor(tensor.tensor_type.name, tensor.data) for tensor in _Reader(path).tensors}


def is_big_endian(version: bytes) -> bool:
    """Whether a file that says `version` was written for machines that put a number's highest byte first."""
    return version[:2] == b"\0\0" and version[2:] != b"\0\0"  # no version needs more than 16 bits


def _check_whole(path: Path, metadata: Mapping[str, object]) -> None:
    count, i = metadata.get("split.count", 1), metadata.get("split.no", 0)
    if not isinstance(count, int) or count <= 1:
        return
    if count > MOST_PARTS or not isinstance(i, int):
        raise BadModelFile(f"{path} is damaged: it says to be part {i!r:.20} of {count} of a split model")
    name, there = re.sub(r"-\d{5}-of-\d{5}\.gguf$", "", path.name), {each.name for each in path.parent.iterdir()}
    parts = [f"{name}-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    missing = [part for part in parts if part not in there]
    where = f"not in this folder: {missing[0]} and {len(missing) - 1} more" if missing else "in this folder"
    raise BadModelFile(
        f"{path} is part {i + 1} of {count} of a split model; its other parts are {where}; "
        f"join them first: llama-gguf-split --merge {parts[0]} {name}.gguf"
    )


def _dequantise(
    reader: _Reader, path: Path, tensor: gguf.ReaderTensor, head_dim: int | None, out: torch.Tensor, first: int = 0
) -> None:
    rotary = head_dim is not None and tensor.name.split(".")[-2:-1] in (["attn_q"], ["attn_k"])
    if rotary and (len(tensor.data) % head_dim or len(out) % head_dim or first % head_dim):
        rows = f"{first} to {first + len(out)} of {len(tensor.data)}"
        raise BadModelFile(f"{path}: rows {rows} of {tensor.name} are no heads of {head_dim}")
    step = max(1, ROWS // head_dim) * head_dim if rotary else ROWS
    vector = _numbers(path, tensor, tensor.data) if len(tensor.shape) < 2 else None  # one row, of any number of blocks
    for begin in range(0, len(out), step):
        wanted = slice(first + begin, first + min(begin + step, len(out)))
        rows = _numbers(path, tensor, tensor.data[wanted]) if vector is None else vector[wanted]
        piece = torch.from_numpy(np.array(rows, dtype=np.float32))  # writable, and aligned
        out[begin : begin + step].copy_(_halves(piece, head_dim) if rotary else piece)
    if hasattr(mmap, "MADV_DONTNEED"):  # its pages of the file are not needed again
        begin = tensor.data_offset // mmap.PAGESIZE * mmap.PAGESIZE
        reader.data._mmap.madvise(mmap.MADV_DONTNEED, begin, tensor.data_offset + tensor.n_bytes - begin)


def _numbers(path: Path, tensor: gguf.ReaderTensor, stored: np.ndarray) -> np.ndarray:
    try:
        return gguf.quants.dequantize(stored, tensor.tensor_type)
    except NotImplementedError:
        kind = tensor.tensor_type.name
        raise BadModelFile(f"{path}: {tensor.name} is {kind}, which the gguf library cannot dequantise") from None


def _halves(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """llama.cpp keeps the two numbers that rotate together side by side; elsewhere they lie half a head apart."""
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
