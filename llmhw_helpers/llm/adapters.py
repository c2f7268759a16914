"""LoRA adapters in files, in the format of Hugging Face's peft: two files in a folder, nothing pickled.

``adapter_model.safetensors`` holds the thin matrices, ``adapter_config.json`` what they are to be multiplied with.
"""

import json
import math
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .files import write_whole
from .lora import BadAdapter, LoRALinear, adapters, add_lora
from .transformer import Transformer

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
# Our layers (GGUF's names), and what Hugging Face's Llama calls them.
THEIRS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OURS = {theirs: ours for ours, theirs in THEIRS.items()}
KEY = re.compile(r"base_model\.model\.(?:model\.layers\.(\d+)\.([\w.]+)|lm_head)\.lora_([AB])\.weight")
# What peft can do besides, and this course does not: settings that must be off, as they change what is computed.
OFF = (
    "use_dora",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "layer_replication",
)
N_FINGERPRINT = 16


def save_adapter(model: Transformer, folder: Path) -> None:
    """Write the adapters of `model` into `folder`; each file appears whole or not at all.

    Raises:
        BadAdapter: there are none, or they do not share one rank and scale, as the format asks for.
        NotSaved: no space, no permission.
    """
    layers = adapters(model)
    ranks = {(layer.A.shape[0], layer.scale) for layer in layers.values()}
    if len(ranks) != 1:
        what = "they differ in rank or scale" if layers else "there are none: add_lora(model, ...) makes them"
        raise BadAdapter(f"no adapters to save: {what}")
    ((rank, scale),) = ranks
    tensors = {}
    for name, layer in layers.items():
        for letter in "AB":
            tensors[_their_key(name, letter)] = getattr(layer, letter).detach().cpu().contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.spec.name,
        "r": rank,
        "lora_alpha": scale * rank,
        "target_modules": sorted({key.split(".")[-3] for key in tensors}),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    # The other file says it again: whoever was killed between the two leaves a pair that is refused, not misread.
    about = {"format": "pt", "lora_alpha": str(scale * rank), "base": json.dumps(_fingerprint(model))}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / TENSORS, save(tensors, about), "adapter")
    write_whole(folder / CONFIG, json.dumps(config, indent=2).encode(), "adapter")


def load_adapter(model: Transformer, folder: Path) -> dict[str, LoRALinear]:
    """Freeze `model` and give it the adapters in `folder`, made here or by peft; returns them.

    Raises:
        FileNotFoundError: there is no adapter.
        BadAdapter: it is damaged, for another base, or of a kind that is not known here. Nothing is changed then.
    """
    folder = Path(folder)
    config, (tensors, about) = _read_config(folder), _read_tensors(folder / TENSORS)
    rank, alpha = config["r"], float(config["lora_alpha"])
    if float(about.get("lora_alpha", alpha)) != alpha:
        raise BadAdapter(f"{folder.name}: the two files are of different adapters; save it again")
    _check_base(model, folder.name, about)
    pairs = _pairs(tensors, folder.name)
    for name, (a, b) in pairs.items():
        _check_pair(model, folder.name, name, a, b, rank)
    targets = {name.rpartition(".")[2] for name in pairs}
    made = add_lora(model, rank, alpha / math.sqrt(rank) * rank if config.get("use_rslora") else alpha, tuple(targets))
    for name, layer in made.items():
        a, b = pairs.get(name, (torch.zeros_like(layer.A), torch.zeros_like(layer.B)))  # peft may leave layers out
        layer.A.data.copy_(a)
        layer.B.data.copy_(b)
    return made


def _read_config(folder: Path) -> dict:
    path = folder / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"no adapter in {folder}: it has no {CONFIG}; save_adapter(model, folder) makes one")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config["r"], int) or not math.isfinite(float(config["lora_alpha"])):
            raise ValueError
        kind = config["peft_type"]
    except (ValueError, KeyError, TypeError):
        raise BadAdapter(f"{path.name} in {folder.name} is damaged: it does not say r and lora_alpha") from None
    on = [name for name in OFF if config.get(name)]
    if kind != "LORA" or on or config.get("bias", "none") != "none":
        what = f"{kind} with {', '.join(on) or 'biases'}" if kind == "LORA" else kind
        raise BadAdapter(f"{folder.name} is an adapter of another kind ({what}); plain LoRA is read here")
    return config


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.exists():
        other = " (an adapter_model.bin is a pickle, which may run any program: convert it to safetensors)"
        raise FileNotFoundError(f"no {path.name} in {path.parent}{other if path.with_suffix('.bin').exists() else ''}")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split())
        raise BadAdapter(f"{path.name} is truncated or damaged ({said:.80}); copy it again") from None


def _pairs(tensors: dict[str, Tensor], folder: str) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B by our layers' names."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        found = KEY.fullmatch(key)
        if not found or (found[2] and found[2] not in OURS):
            raise BadAdapter(f"{folder} is for another kind of model: it adapts {key!r}, which no Llama here has")
        name = f"blk.{found[1]}.{OURS[found[2]]}" if found[2] else "output"
        pairs.setdefault(name, {})[found[3]] = tensor
    if not pairs or any(len(pair) < 2 for pair in pairs.values()):
        raise BadAdapter(f"{folder} is damaged: a layer's A or B is missing; copy it again")
    return {name: (pair["A"], pair["B"]) for name, pair in pairs.items()}


def _check_pair(model: Transformer, folder: str, name: str, a: Tensor, b: Tensor, rank: int) -> None:
    layer = dict(model.named_modules()).get(name)
    layer = layer.base if isinstance(layer, LoRALinear) else layer
    if layer is None:
        raise BadAdapter(f"{folder} is for another base: {model.spec.name} has no layer {name}")
    expected = (rank, layer.weight.shape[1]), (layer.weight.shape[0], rank)
    if (tuple(a.shape), tuple(b.shape)) != expected:
        found = f"{name} has A {list(a.shape)} and B {list(b.shape)}"
        raise BadAdapter(f"{folder} is for another base, or damaged: {found}, not {list(map(list, expected))}")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise BadAdapter(f"{folder} is damaged: {name} holds numbers that are not finite")


def _check_base(model: Transformer, folder: str, about: dict[str, str]) -> None:
    """peft's own files say the base's name only, which may be any path; ours say a few of its numbers."""
    try:
        expected = json.loads(about.get("base", "null"))
        same = expected is None or torch.allclose(torch.tensor(expected), torch.tensor(_fingerprint(model)), rtol=0.01)
    except (ValueError, TypeError, RuntimeError):
        same = False
    if not same:
        raise BadAdapter(
            f"{folder} was trained on another base than {model.spec.name}: load the model that it belongs to"
        )


def _fingerprint(model: Transformer) -> list[float]:
    """A few of the last norm's weights, which every training changes and no number format by more than 1%."""
    return [round(value, 6) for value in model.output_norm.weight[:N_FINGERPRINT].tolist()]


def _their_key(name: str, letter: str) -> str:
    if name == "output":
        return f"base_model.model.lm_head.lora_{letter}.weight"
    _, layer, part = name.split(".")
    return f"base_model.model.model.layers.{layer}.{THEIRS[part]}.lora_{letter}.weight"
