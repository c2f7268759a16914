"""Weights of snapshots that are small numbers beside scales (FP8, int8): what they stand for, or that it is not known.

``quantization_config`` in config.json says how; the formats are those of compressed-tensors, of transformers'
fine-grained FP8 (DeepSeek-V3, arXiv:2412.19437, section 3.3) and of bitsandbytes' LLM.int8() (arXiv:2208.07339).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from .model_files import BadModelFile

SCALES = {"weight_scale": 1.0, "weight_scale_inv": 1.0, "SCB": 1 / 127}  # ... times this
# Besides: of the activations, which are not rounded here; and bitsandbytes' word that rows lie as they lie elsewhere.
BESIDES = ("input_scale", "activation_scale", "weight_format")
EMPTY = (None, False, {}, [])
ANY = None
Settings = Mapping[str, tuple | None]


@dataclass(frozen=True)
class Method:
    """A way to store weights.

    Attributes:
        types: safetensors' names of the types that a scale is applied to.
        scales: names that the scale may have.
        settings: values that are read here, or ANY where none of them changes a weight; other settings must be empty.
    """

    types: tuple[str, ...]
    scales: tuple[str, ...]
    settings: Settings


FORMATS = ("float-quantized", "int-quantized", "naive-quantized")
METHODS = {
    "compressed-tensors": Method(
        types=("F8_E4M3", "I8"),
        scales=("weight_scale",),
        settings={
            "format": FORMATS,
            "quantization_status": ("compressed", "frozen"),  # of the training that came before
            **dict.fromkeys(("config_groups", "ignore", "version", "global_compression_ratio"), ANY),
        },
    ),
    "fp8": Method(
        types=("F8_E4M3", "F8_E5M2"),
        scales=("weight_scale_inv", "weight_scale"),
        settings={
            "fmt": ("e4m3",),
            **dict.fromkeys(("activation_scheme", "weight_block_size", "dequantize", "scale_fmt"), ANY),
            **dict.fromkeys(("modules_to_not_convert", "modules_to_convert", "ignored_layers", "expert_dtype"), ANY),
        },
    ),
    "bitsandbytes": Method(
        types=("I8",),
        scales=("SCB",),
        settings={
            **dict.fromkeys(("load_in_8bit", "_load_in_8bit"), (True,)),
            **dict.fromkeys(("llm_int8_threshold", "llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload"), ANY),
            **dict.fromkeys(("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage", "bnb_4bit_quant_type"), ANY),
        },
    ),
}
GROUP = {"format": FORMATS, **dict.fromkeys(("targets", "weights", "input_activations"), ANY)}
WEIGHTS = {
    "num_bits": (8,),
    "type": ("float", "int"),
    "symmetric": (True,),
    **dict.fromkeys(("strategy", "group_size", "block_structure"), ANY),
    **dict.fromkeys(("observer", "observer_kwargs", "scale_dtype", "zp_dtype"), ANY),
}


@dataclass(frozen=True)
class Scheme:
    """How a snapshot's small weights are stored.

    Attributes:
        name: of the method, as ``quantization_config`` calls it.
        method: what it stores.
        block: rows and columns that share a scale, where it is neither one a tensor nor one a row.
        rounds_activations: it also asks for activations in 8 bits, which no reader of weights can do.
    """

    name: str
    method: Method
    block: tuple[int, int] | None
    rounds_activations: bool


def scheme(said: object, path: Path) -> Scheme | None:
    """What the ``quantization_config`` `said` in the snapshot at `path` asks for; None where there is none.

    Raises:
        BadModelFile: a method or a setting that is not read here.
    """
    if not said:
        return None
    name = said.get("quant_method") if isinstance(said, Mapping) else said
    if not isinstance(name, str) or name not in METHODS:
        raise BadModelFile(f"{path} is quantised by {name!s:.60}; read are {', '.join(METHODS)}, each in 8 bits")
    _check(path, name, said, METHODS[name].settings | {"quant_method": ANY})
    groups = said.get("config_groups") or {}
    groups = list(groups.values()) if isinstance(groups, Mapping) else [groups]
    for group in groups:
        _check(path, name, group, GROUP)
        _check(path, name, group.get("weights") or {}, WEIGHTS)
    blocks = {_block(path, group["weights"]) for group in groups if group.get("weights")}
    if "weight_block_size" in said:
        blocks.add(_pair(path, said["weight_block_size"]))
    if len(blocks) > 1:
        raise BadModelFile(f"{path} is quantised in several kinds of blocks, which is not read here")
    rounds = name != "compressed-tensors" or any(group.get("input_activations") for group in groups)
    return Scheme(name, METHODS[name], blocks.pop() if blocks else None, rounds)


def _check(path: Path, method: str, settings: object, known: Settings) -> None:
    if not isinstance(settings, Mapping):
        raise BadModelFile(f"{path}: quantization_config of {method} has {settings!s:.60} where settings should be")
    for key, value in settings.items():
        allowed = known.get(key, EMPTY)
        if allowed is not ANY and value is not None and value not in allowed:
            raise BadModelFile(f"{path} is quantised by {method} with {key} = {value!s:.60}, which is not read here")


def _block(path: Path, weights: Mapping) -> tuple[int, int] | None:
    if weights.get("block_structure"):
        return _pair(path, weights["block_structure"])
    return _pair(path, [1, weights["group_size"]]) if weights.get("group_size") not in (None, -1) else None


def _pair(path: Path, block: object) -> tuple[int, int] | None:
    if block is None:
        return None
    if not isinstance(block, list) or len(block) != 2 or any(type(n) is not int or n < 1 for n in block):
        raise BadModelFile(f"{path} is quantised in blocks of {block!s:.60}, which are no rows and columns")
    return block[0], block[1]


def check_scale(path: Path, name: str, shape: tuple[int, ...], scale: tuple[int, ...], block: tuple | None) -> None:
    """Refuse a scale of the shape `scale` that is neither one number, nor one a row, nor one a block of `name`.

    Raises:
        BadModelFile: it is neither.
    """
    fits = len(shape) == 2 and (prod(scale) == 1 or scale in ((shape[0],), (shape[0], 1), _n_blocks(shape, block)))
    if not fits:
        raise BadModelFile(f"{path}: {name} is {shape} and its scale {scale}, which do not fit (blocks of {block})")


def _n_blocks(shape: Iterable[int], block: tuple[int, int] | None) -> tuple[int, ...] | None:
    return block and tuple(-(-n // size) for n, size in zip(shape, block, strict=True))


def scaled(
    rows: Tensor, begin: int, n_rows: int, scale: Tensor, block: tuple[int, int] | None
) -> Float[Tensor, "n_rows n_in"]:
    """Rows of a matrix from `begin` on times their part of `scale`, whose shape `check_scale` has seen, in fp32.

    Args:
        rows: small numbers ``[n_rows, n_in]``.
        begin: their first row's number in the whole matrix.
        n_rows: rows of the whole matrix.
        scale: of the whole matrix.
        block: rows and columns that share a scale.
    """
    wide, scale = rows.float(), scale.float()
    if scale.numel() == 1:
        return wide * scale.reshape(())
    if block and tuple(scale.shape) == _n_blocks((n_rows, rows.shape[1]), block):
        scale = scale.repeat_interleave(block[0], 0)[begin : begin + len(rows)]
        return wide * scale.repeat_interleave(block[1], 1)[:, : rows.shape[1]]
    return wide * scale.reshape(-1, 1)[begin : begin + len(rows)]
