"""A model larger than the memory it may take: some layers stay, the others come in for every pass, and go again.

They come from files, by memory map, or on a GPU from the host's memory.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor
from torch.func import functional_call

from ..costs.offload import WINDOW, split
from ..files import write_whole
from ..llm.headers import read_safetensors_header
from ..llm.model_files import BadModelFile
from ..llm.transformer import Block, Transformer
from ..measure.pages import MappedFile
from ..specs.architectures import Model

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def write_layers(model: Transformer, folder: Path) -> None:
    """A safetensors file for each layer, and one for the rest: each can be read, and let go, as a whole.

    Raises:
        NotSaved: no space, no permission.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outside = {name: each for name, each in model.state_dict().items() if not name.startswith("blk.")}
    write_whole(folder / "outside.safetensors", save(outside | {"frequencies": model.frequencies}), "embedding")
    for i, block in enumerate(model.blk):
        contents = {name: each.contiguous() for name, each in block.state_dict().items()}
        write_whole(_layer_file(folder, i), save(contents), f"layer {i}")


class DiskLayers:
    """Layers in files of `write_layers`, mapped: the kernel reads them when they are touched.

    Args:
        folder: of the files.
        n_layers: in it.

    Attributes:
        dropped: whether all that was let go has really left the memory, so that the next pass reads the disk. It does
            not where there is none (tmpfs), or where the system has no such call.

    Raises:
        BadModelFile: a file that is missing, truncated or damaged.
    """

    def __init__(self, folder: Path, n_layers: int):
        paths = [_layer_file(folder, i) for i in range(n_layers)]
        self._headers = [read_safetensors_header(path) for path in paths]
        for path, header in zip(paths, self._headers, strict=True):
            if strange := [
                name for name, entry in header.tensors.items() if entry.type not in TORCH or not entry.n_bytes
            ]:
                raise BadModelFile(f"{path} holds {strange[0]!r:.60}, which is no weight of a layer")
        self._files = [MappedFile(path) for path in paths]
        self._open = [os.open(path, os.O_RDONLY) for path in paths]
        self.dropped = True

    def prefetch(self, i: int) -> None:
        """Ask the kernel to start reading."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._open[i], 0, 0, os.POSIX_FADV_WILLNEED)

    def fetch(self, i: int) -> dict[str, Tensor]:
        """The layer's weights: views of the map, of which nothing needs to be in memory yet.

        Raises:
            FileShrank: the file is shorter than it was: to touch what is missing would end the process.
        """
        file, weights = self._files[i], {}
        file.touch(0, file.n_bytes)
        for name, entry in self._headers[i].tensors.items():
            with warnings.catch_warnings():  # nobody writes to it, which is what torch warns of
                warnings.simplefilter("ignore")
                flat = torch.frombuffer(file.bytes, dtype=torch.uint8, count=entry.n_bytes, offset=entry.offset)
            weights[name] = flat.view(TORCH[entry.type]).view(entry.shape)
        return weights

    def release(self, i: int) -> None:
        """Let the layer's pages go."""
        self.dropped &= self._files[i].forget()

    def close(self) -> None:
        """Close the files; nothing that was fetched may be used any more."""
        for file, number in zip(self._files, self._open, strict=True):
            file.__exit__()
            os.close(number)


class HostLayers:
    """Layers in the host's pinned memory, copied to a GPU beside what it computes. Not run where there is no GPU.

    Only pinned memory can be copied while the host goes on: other memory may be moved to the disk under the copy.
    """

    def __init__(self, layers: Sequence[Mapping[str, Tensor]], device: torch.device | str):
        self._host = [{name: each.detach().cpu().pin_memory() for name, each in layer.items()} for layer in layers]
        self._device, self._copying = torch.device(device), torch.cuda.Stream(device)
        self._coming: dict[int, tuple[dict[str, Tensor], torch.cuda.Event]] = {}

    def prefetch(self, i: int) -> None:
        """Start the copy, in a stream of its own."""
        if i not in self._coming:
            with torch.cuda.stream(self._copying):
                there = {name: each.to(self._device, non_blocking=True) for name, each in self._host[i].items()}
                self._coming[i] = there, self._copying.record_event()

    def fetch(self, i: int) -> dict[str, Tensor]:
        """The layer's weights on the GPU, whose work waits for the copy."""
        self.prefetch(i)
        there, done = self._coming[i]
        at_work = torch.cuda.current_stream(self._device)
        at_work.wait_event(done)
        for each in there.values():
            each.record_stream(at_work)  # its memory is not given to another before this work is done
        return there

    def release(self, i: int) -> None:
        """Forget the copy."""
        del self._coming[i]

    def close(self) -> None:
        """Let all of them go."""
        self._host.clear()


class Offloaded:
    """A model of `write_layers` that holds at most `limit_bytes` of weights; prefill, decode and the engine take it.

    Args:
        spec: its architecture.
        folder: of its files.
        limit_bytes: of weights in memory, two streamed layers included.
        device: where it computes; on a GPU layers stream from the host's memory, elsewhere from the files.

    Attributes:
        model: what is in no layer: embedding, last norm, head.
        parts: which layers stay.
        bytes_so_far: of weights that have been streamed since it was made; `Split.streamed_bytes` in each pass.
        layers: what they come from.

    Raises:
        NoRoom: the limit has no room for two layers.
        BadModelFile: a file that is missing, truncated or damaged.
    """

    def __init__(self, spec: Model, folder: Path, limit_bytes: float, device: torch.device | str = "cpu"):
        outside = _read(folder / "outside.safetensors")
        dtype = outside["token_embd.weight"].dtype
        self.spec, self.parts = spec, split(spec, limit_bytes, NAMES[dtype])
        with torch.device("meta"):
            self.model, self._block = Transformer(replace(spec, n_layers=0)), Block(spec)
        frequencies = outside.pop("frequencies")
        self.model.load_state_dict(outside, assign=True)
        self.model.to(device).frequencies = frequencies
        files = DiskLayers(folder, spec.n_layers)
        n_resident, self.bytes_so_far = self.parts.n_resident, 0
        self._resident = []
        for i in range(n_resident):
            self._resident.append({name: each.to(device, copy=True) for name, each in files.fetch(i).items()})
            files.release(i)
        self.layers: DiskLayers | HostLayers = files
        if torch.device(device).type == "cuda":
            self.layers = HostLayers([files.fetch(i) for i in range(spec.n_layers)], device)
            files.close()

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in: the format of its files."""
        return self.model.token_embd.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.token_embd.weight.device

    @property
    def nbytes(self) -> int:
        """Bytes of weights in that device's memory at a time, at most: what stays, and two layers that are streamed."""
        n_streamed = self.parts.n_layers - self.parts.n_resident
        return self.parts.resident_bytes + min(WINDOW, n_streamed) * self.parts.layer_bytes

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All weights by name, and what turns positions into angles; layers are let go one after the other."""
        yield from self.model.state_dict().items()
        yield "frequencies", self.model.frequencies
        for i in range(self.parts.n_layers):
            weights = self._resident[i] if i < self.parts.n_resident else self.layers.fetch(i)
            yield from ((f"blk.{i}.{name}", each) for name, each in weights.items())
            if i >= self.parts.n_resident:
                self.layers.release(i)

    def forward(
        self,
        tokens: Int[Tensor, "batch n_new"],
        positions: Int[Tensor, "batch n_new"],
        attend: Callable[[int, Tensor, Tensor, Tensor], Tensor],
    ) -> Float[Tensor, "batch n_new d_model"]:
        """The residual stream after the last norm; each streamed layer is let go after its use.

        Raises:
            FileShrank: a file has become shorter.
        """
        x = self.model.embed(tokens)
        rotation = self.model.rotation(x, positions)
        n_resident = self.parts.n_resident
        self._prefetch(n_resident)  # while the resident layers are at work
        for i in range(self.parts.n_layers):
            if i < n_resident:
                x = functional_call(self._block, self._resident[i], (x, rotation, partial(attend, i)))
                continue
            self._prefetch(i + 1)
            weights = self.layers.fetch(i)
            x = functional_call(self._block, weights, (x, rotation, partial(attend, i)))
            self.bytes_so_far += sum(each.nbytes for each in weights.values())
            del weights
            self.layers.release(i)
        return self.model.output_norm(x)

    def _prefetch(self, i: int) -> None:
        if i < self.parts.n_layers:
            self.layers.prefetch(i)

    def head(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch vocab_size"]:
        """Logits from the residual stream at one position of each sequence."""
        return self.model.head(x)

    def close(self) -> None:
        """Close the files."""
        self.layers.close()


def _layer_file(folder: Path, i: int) -> Path:
    return folder / f"layer_{i:03}.safetensors"


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, in memory of their own."""
    header = read_safetensors_header(path)
    content = bytearray(path.read_bytes())
    return {
        name: torch.frombuffer(content, dtype=TORCH[e.type], count=e.n_bytes // TORCH[e.type].itemsize, offset=e.offset)
        .view(e.shape)
        .clone()
        for name, e in header.tensors.items()
    }
