"""Blocks of a model file: so many weights together, their small numbers, and the scales that they share."""

from collections.abc import Mapping
from dataclasses import dataclass

from .figures import look_up

GGML = "llama.cpp, ggml/src/ggml-common.h, the block structs, and ggml/include/ggml.h, enum ggml_type"
BITSANDBYTES = "QLoRA, arXiv:2305.14314, section 3: blocks of 64, and double quantisation of their scales"


@dataclass(frozen=True)
class Block:
    """How a format stores `n_weights` weights: bits by part.

    Attributes:
        name: as llama.cpp writes it.
        n_weights: in one block; a row of a matrix is a whole number of blocks.
        parts: bits of each part of a block, in their order.
        gguf_type: the number that stands for it in a GGUF file; None where none does.
        source: where the layout is defined.

    >>> block("Q4_0").bytes, block("Q4_0").bits_per_weight
    (18, 4.5)
    """

    name: str
    n_weights: int
    parts: Mapping[str, int]
    gguf_type: int | None = None
    source: str = GGML

    @property
    def bytes(self) -> int:
        """Bytes of a block."""
        return sum(self.parts.values()) // 8

    @property
    def bits_per_weight(self) -> float:
        """Bits of a block, divided by its weights."""
        return sum(self.parts.values()) / self.n_weights


def _plain(name: str, bits: int, gguf_type: int) -> Block:
    return Block(name, 1, {"number": bits}, gguf_type)


def _of_32(name: str, bits: int, scales: Mapping[str, int], gguf_type: int) -> Block:
    return Block(name, 32, {**scales, "numbers": 32 * bits}, gguf_type)


def _of_256(name: str, bits: int, scales: Mapping[str, int], gguf_type: int) -> Block:
    """A "k-quant": groups of 16 or 32 weights have small integers for scales, which share fp16 scales in turn."""
    return Block(name, 256, {**scales, "numbers": 256 * bits}, gguf_type)


_SCALE, _MINIMUM = {"scale, fp16": 16}, {"minimum, fp16": 16}
BLOCKS = {
    each.name: each
    for each in (
        _plain("F32", 32, 0),
        _plain("F16", 16, 1),
        _plain("BF16", 16, 30),
        _plain("F64", 64, 28),
        _plain("I8", 8, 24),
        _plain("I16", 16, 25),
        _plain("I32", 32, 26),
        _plain("I64", 64, 27),
        _of_32("Q4_0", 4, _SCALE, 2),
        _of_32("Q4_1", 4, _SCALE | _MINIMUM, 3),
        _of_32("Q5_0", 5, _SCALE, 6),
        _of_32("Q5_1", 5, _SCALE | _MINIMUM, 7),
        _of_32("Q8_0", 8, _SCALE, 8),
        _of_32("IQ4_NL", 4, _SCALE, 20),
        _of_32("MXFP4", 4, {"scale, E8M0": 8}, 39),
        _of_256("Q2_K", 2, {"16 scales and minima, 4 bits each": 16 * 8} | _SCALE | _MINIMUM, 10),
        _of_256("Q3_K", 3, {"16 scales, 6 bits each": 16 * 6} | _SCALE, 11),
        _of_256("Q4_K", 4, _SCALE | _MINIMUM | {"8 scales and minima, 6 bits each": 8 * 12}, 12),
        _of_256("Q5_K", 5, _SCALE | _MINIMUM | {"8 scales and minima, 6 bits each": 8 * 12}, 13),
        _of_256("Q6_K", 6, {"16 scales, 8 bits each": 16 * 8} | _SCALE, 14),
        _of_256("IQ4_XS", 4, _SCALE | {"8 scales, 6 bits each": 8 * 6}, 23),
        # not in GGUF files: bitsandbytes'; with double quantisation 256 of the scales share an fp32 scale of their own
        Block("NF4", n_weights=64, parts={"scale, fp32": 32, "numbers": 64 * 4}, source=BITSANDBYTES),
        Block(
            "NF4, double",
            n_weights=64 * 256,
            parts={"scale of scales, fp32": 32, "256 scales, int8": 256 * 8, "numbers": 64 * 256 * 4},
            source=BITSANDBYTES,
        ),
    )
}


def block(name: str) -> Block:
    """The block layout called `name`; `UnknownName` with the nearest names where there is none."""
    return look_up(name, BLOCKS, "block layout")
