"""Checkpoints of a training run: one safetensors file, written whole or not at all, checked when read.

The tensors are in the file's body, everything else is JSON in its header. Nothing is ever pickled: whoever unpickles a
file runs whatever program its author put there.
"""

import json
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import settled, write_whole
from ..specs.json_text import parse_json
from ..specs.settings import OneLine
from .model_files import check_safetensors

FORMAT = "llmhw run 1"


class BadCheckpoint(OneLine, ValueError):
    """A file that is no checkpoint, a damaged one, or one of another run: the message says which."""


def write_run(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        NotSaved: no space, no permission; the one before is still there.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about)
    content = save(tensors, {"format": FORMAT, "about": text, "crc32": str(_checksum(tensors, text))})
    write_whole(Path(path), content, "checkpoint")


def read_run(path: Path) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors and the rest, or None where there is no file.

    Raises:
        BadCheckpoint: truncated, damaged, or not a checkpoint of this course.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a pipe waits for a writer for ever
            raise BadCheckpoint(f"{path.name} is no file; name another")
        return settled(lambda: _read(path), path) if path.exists() else None
    except OSError as error:
        raise BadCheckpoint(f"{path.name} cannot be read: {error.strerror or error}; name another") from None


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    away = "delete it or name another"
    try:
        check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise BadCheckpoint(f"{path.name} is a safetensors file, but not a checkpoint of a run here; {away}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except BadCheckpoint:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise BadCheckpoint(f"{path.name} is no checkpoint, or a truncated one ({said:.80}); {away}") from None
    if header.get("crc32") != str(_checksum(tensors, header.get("about", ""))):
        raise BadCheckpoint(f"{path.name} is damaged: its checksum differs; {away}")
    try:
        about = parse_json(header.get("about", ""))
    except ValueError as error:
        raise BadCheckpoint(
            f"{path.name} is no checkpoint of a run: its description is no JSON ({error}); {away}"
        ) from None
    if not isinstance(about, dict):
        raise BadCheckpoint(f"{path.name} is no checkpoint of a run: its description is no JSON object; {away}")
    return tensors, about


def _checksum(tensors: dict[str, Tensor], text: str) -> int:
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode(), crc)
        crc = zlib.crc32(tensors[name].view(-1).view(torch.uint8).numpy(), crc)  # NumPy knows no bf16
    return crc
