"""The GGUF file, as llama.cpp writes it: opened by memory map and dequantised by the gguf library, piece by piece."""

import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGUFValueType

ROWS = 512  # dequantised at a time: a megabyte or two, which the cache still holds when it is copied


class BadModelFile(ValueError):
    """The file is there, but it is not a model that the course can read; the message says why."""


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
        else:
            return super()._get_field_parts(orig_offs, raw_type)
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
        BadModelFile: no GGUF file, a type of tensor that the library does not know, or damage, with the advice `again`.
    """
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise BadModelFile(f"{path} is not a GGUF file: it begins with {magic!r}, not b'GGUF'")
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
    shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
    config = _config_of_gguf(metadata, shapes)
    head_dim = config.get("head_dim")
    fill = {tensor.name: partial(_dequantise, reader, path, tensor, head_dim) for tensor in reader.tensors}
    return shapes, metadata, config, fill


def _config_of_gguf(metadata: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    """What a config.json would say, which is where the two kinds of files meet."""
    said = {key.removeprefix("llama."): metadata[key] for key in metadata if key.startswith("llama.")}
    embedding = shapes.get("token_embd.weight")
    config = {
        "_name_or_path": metadata.get("general.name", "llama"),
        "model_type": metadata.get("general.architecture"),
        "num_hidden_layers": said.get("block_count"),
        "hidden_size": said.get("embedding_length"),
        "intermediate_size": said.get("feed_forward_length"),
        "num_attention_heads": said.get("attention.head_count"),
        "num_key_value_heads": said.get("attention.head_count_kv", said.get("attention.head_count")),
        "head_dim": said.get("attention.key_length", said.get("rope.dimension_count")),
        "vocab_size": embedding[0] if embedding else said.get("vocab_size"),
        "max_position_embeddings": said.get("context_length"),
        "rope_theta": said.get("rope.freq_base"),
        "rms_norm_eps": said.get("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in shapes,
        "attention_bias": "blk.0.attn_q.bias" in shapes,
        "mlp_bias": "blk.0.ffn_gate.bias" in shapes,
    }
    return {key: value for key, value in config.items() if value is not None}


def _dequantise(
    reader: _Reader, path: Path, tensor: gguf.ReaderTensor, head_dim: int | None, out: torch.Tensor
) -> None:
    rotary = head_dim is not None and tensor.name.split(".")[-2] in ("attn_q", "attn_k")
    step = max(1, ROWS // head_dim) * head_dim if rotary else ROWS
    for begin in range(0, len(tensor.data), step):
        try:
            rows = gguf.quants.dequantize(tensor.data[begin : begin + step], tensor.tensor_type)
        except NotImplementedError:
            kind = tensor.tensor_type.name
            raise BadModelFile(f"{path}: {tensor.name} is {kind}, which the gguf library cannot dequantise") from None
        piece = torch.from_numpy(np.array(rows, dtype=np.float32))  # writable, and aligned
        out[begin : begin + step].copy_(_halves(piece, head_dim) if rotary else piece)
    if hasattr(mmap, "MADV_DONTNEED"):  # its pages of the file are not needed again
        begin = tensor.data_offset // mmap.PAGESIZE * mmap.PAGESIZE
        reader.data._mmap.madvise(mmap.MADV_DONTNEED, begin, tensor.data_offset + tensor.n_bytes - begin)


def _halves(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """llama.cpp keeps the two numbers that rotate together side by side; elsewhere they lie half a head apart."""
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
