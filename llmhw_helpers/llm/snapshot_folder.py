"""A Hugging Face snapshot folder: config.json beside ``*.safetensors``, and which of these count.

``model.safetensors.index.json`` says so, or there is one file alone. Tensors get GGUF's names. Nothing is unpickled.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from ..specs.json_text import parse_json, read_file
from .model_files import ROWS, BadModelFile, check_architecture, check_safetensors
from .scaled_weights import BESIDES, SCALES, Scheme, check_scale, scaled, scheme

INDEX, ALONE = "model.safetensors.index.json", "model.safetensors"
NOT_THE_MODEL = re.compile(r"adapter_model|consolidated|optimizer")  # what may lie beside it
# Hugging Face's names of a Llama's tensors, and GGUF's.
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
IN_A_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
FREQUENCIES = re.compile(r"(model\.layers\.\d+\.self_attn|model)\.rotary_emb\.inv_freq")  # config.json says them again
METAS = re.compile(r"(layers\.\d+\.attention\.wq|tok_embeddings)\.weight")
WIDE = ("F64", "F32", "F16", "BF16")  # safetensors' names of the types that are weights as they are


class Stored(NamedTuple):
    """A tensor of the snapshot: its file, its name there, safetensors' name of its type, its shape."""

    file: Path
    name: str
    type: str
    shape: tuple[int, ...]


def open_snapshot(path: Path) -> tuple[Mapping, Mapping, Mapping, Mapping[str, Callable]]:
    """Shapes by GGUF's names, config.json, the same for `specs`, and by name a function that fills a tensor.

    Raises:
        BadModelFile: no snapshot of a Llama, not whole, not clear which files count, or tensors that are not known.
    """
    config = _json(path / "config.json", f"{path} is not a snapshot folder: it has no config.json")
    if not isinstance(config, dict) or type(config.get("num_hidden_layers")) is not int:
        raise BadModelFile(f"{path / 'config.json'} does not say num_hidden_layers")
    check_architecture(path, config.get("model_type"))
    how = scheme(config.get("quantization_config") or config.get("quantization"), path)  # the second is MLX's
    stored = _tensors(path)
    weights = {ours: tensor for theirs, tensor in stored.items() if (ours := _our_name(theirs))}
    scales = {ours: _scale(path, tensor, stored, how) for ours, tensor in weights.items()}
    if how and not any(scales.values()):
        raise BadModelFile(f"{path} says that it is quantised by {how.name}, and none of its weights is stored so")
    in_use = [*weights.values(), *filter(None, scales.values())]
    _check_places(path, stored, in_use, [tensor for ours, tensor in weights.items() if scales[ours]])
    if how and how.rounds_activations:
        warnings.warn(f"{path.name} asks for activations in 8 bits; here its weights alone are", stacklevel=2)
    shapes = {ours: tensor.shape for ours, tensor in weights.items()}
    fill = {ours: partial(_copy, tensor, scales[ours], how and how.block) for ours, tensor in weights.items()}
    name = config.get("_name_or_path")
    described = {key: value for key, value in config.items() if key != "quantization_config"}
    return shapes, config, described | {"_name_or_path": name if isinstance(name, str) else path.name}, fill


def _json(path: Path, missing: str) -> object:
    try:
        return parse_json(read_file(path))
    except FileNotFoundError:
        raise BadModelFile(missing) from None
    except OSError as error:
        raise BadModelFile(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadModelFile(f"{path} is not JSON: {error}") from None


def _tensors(path: Path) -> dict[str, Stored]:
    index = _index(path)
    stored = {}
    for file in sorted(set(index.values())) if index else [_only_file(path)]:
        for tensor in _read(path / file):
            if index and index.get(tensor.name) != file:
                raise BadModelFile(f"{path}: {tensor.name} stands in {file}, where {INDEX} does not name it")
            stored[tensor.name] = tensor
    if index and (missing := index.keys() - stored.keys()):
        raise BadModelFile(f"{path}: {INDEX} names {min(missing)}, which {index[min(missing)]} does not hold")
    return stored


def _index(path: Path) -> dict[str, str] | None:
    """The file of each tensor; None without an index."""
    if not (path / INDEX).exists():
        return None
    said = _json(path / INDEX, f"{path} has no {INDEX}")
    index = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
        raise BadModelFile(f"{path / INDEX} has no weight_map, which says where each tensor is")
    for file in sorted(set(index.values())):
        if not _is_there(path, file):
            raise BadModelFile(f"{path}: {INDEX} names {file!r}, which is not in this folder: get it as well")
    if (path / ALONE).exists() and ALONE not in index.values():
        raise BadModelFile(f"{path} holds {ALONE} and an index of other files: move away those that do not count")
    return index


def _is_there(folder: Path, name: str) -> bool:
    """A name from a file may be none that a system allows."""
    try:
        return Path(name).name == name and (folder / name).is_file()
    except (OSError, ValueError):
        return False


def _only_file(path: Path) -> str:
    there = sorted(file.name for file in path.glob("*.safetensors"))
    of_model = [ALONE] if ALONE in there else [name for name in there if not NOT_THE_MODEL.match(name)] or there
    if not of_model:
        pickled = " (a *.bin is a pickle, which may run any program: convert it)" if any(path.glob("*.bin")) else ""
        raise BadModelFile(f"{path} holds no *.safetensors file{pickled}")
    if len(of_model) > 1:
        raise BadModelFile(f"{path} holds {of_model[0]} and {len(of_model) - 1} more, and no {INDEX}: get that as well")
    return of_model[0]


def _read(file: Path) -> Iterator[Stored]:
    if file.exists() and not file.is_file():  # a pipe waits for a writer for ever
        raise BadModelFile(f"{file} is no file")
    try:
        check_safetensors(file)
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dictionary)
                piece = tensors.get_slice(name)
                yield Stored(file, name, piece.get_dtype(), tuple(piece.get_shape()))
    except (SafetensorError, OSError, ValueError) as error:
        raise BadModelFile(f"{file} is truncated or damaged ({error})") from None


def _our_name(theirs: str) -> str | None:
    module, _, kind = theirs.rpartition(".")
    layer = LAYER.fullmatch(module)
    part = (IN_A_LAYER if layer else OUTSIDE).get(layer[2] if layer else module)
    if part is None or kind not in ("weight", "bias"):
        return None
    return f"blk.{int(layer[1])}.{part}.{kind}" if layer else f"{part}.{kind}"


def _scale(path: Path, tensor: Stored, stored: Mapping[str, Stored], how: Scheme | None) -> Stored | None:
    """What the weights of `tensor` are to be multiplied with, None where they are weights as they are."""
    module = tensor.name.removesuffix("weight")
    found = [stored[module + part] for part in SCALES if module + part in stored]
    if tensor.type in WIDE and not found:
        return None
    ours = how is not None and len(found) == 1 and found[0].name.rpartition(".")[2] in how.method.scales
    if not ours or tensor.type not in how.method.types or found[0].type not in WIDE:
        what = (
            f"{tensor.name} is stored as {tensor.type} with {len(found) or 'no'} scale{'s' if len(found) > 1 else ''}"
        )
        raise BadModelFile(
            f"{path}: {what}, which is not read here" + ("" if how else ": its config.json says no method")
        )
    check_scale(path, tensor.name, tensor.shape, found[0].shape, how.block)
    if (order := stored.get(module + "weight_format")) and _whole(order).any():
        raise BadModelFile(
            f"{path}: the rows of {tensor.name} lie as some processor wants them, which is not read here"
        )
    return found[0]


def _whole(tensor: Stored) -> torch.Tensor:
    with safe_open(tensor.file, framework="pt") as file:
        return file.get_tensor(tensor.name)


def _check_places(path: Path, stored: Mapping[str, Stored], used: Iterable[Stored], scaled: Iterable[Stored]) -> None:
    known = {tensor.name for tensor in used}
    known |= {tensor.name.removesuffix("weight") + part for tensor in scaled for part in BESIDES}
    others = [name for name in stored if name not in known and not FREQUENCIES.fullmatch(name)]
    if any(map(METAS.fullmatch, others)):
        raise BadModelFile(f"{path} is in Meta's layout: get the one of Hugging Face, or convert it with transformers")
    if others:
        more = f" and {len(others) - 1} more tensors" if len(others) > 1 else ""
        raise BadModelFile(f"{path} holds {others[0]!r}{more}, for which a Llama has no place")


def _copy(
    tensor: Stored, scale: Stored | None, block: tuple[int, int] | None, out: torch.Tensor, first: int = 0
) -> None:
    factors = _whole(scale).float() * SCALES[scale.name.rpartition(".")[2]] if scale else None
    with safe_open(tensor.file, framework="pt") as file:
        rows = file.get_slice(tensor.name)
        for begin in range(0, len(out), ROWS):
            piece = rows[first + begin : first + min(begin + ROWS, len(out))]
            piece = piece if factors is None else scaled(piece, first + begin, tensor.shape[0], factors, block)
            out[begin : begin + ROWS].copy_(piece)
