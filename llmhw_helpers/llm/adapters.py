"""LoRA adapters in files, in the format of Hugging Face's peft: two files in a folder, nothing pickled.

``adapter_model.safetensors`` holds the thin matrices, ``adapter_config.json`` what they are to be multiplied with.
"""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import saving, settled
from ..specs.json_text import parse_json, read_file
from .lora import BadAdapter, LoRALinear, adapters, add_lora
from .model_files import check_safetensors
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
MOST_PARTS = 20  # of a module's name: the last so many are compared
HEAD = "base_model.model.lm_head.base_layer.weight"  # peft adds the base's own, where the head is adapted
KEY = re.compile(r"base_model\.model\.(?:model\.layers\.(\d+)\.([\w.]+)|lm_head)\.lora_([AB])\.weight")
# Settings of peft's `LoraConfig` that are applied below, ...
APPLIED = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights"),
    *("target_modules", "layers_to_transform", "layers_pattern"),
}
# ... and those that change nothing here: words about the files, what matters in training alone, and what belongs to
# others that must be off. All the rest must be off, known or not: it changes what is computed (as DoRA does).
HARMLESS = {
    *("base_model_name_or_path", "revision", "task_type", "auto_mapping", "inference_mode", "peft_version"),
    *("lora_dropout", "eva_config", "corda_config", "lora_ga_config", "loftq_config"),
    *("qalora_group_size", "megatron_core"),
}
OFF = (None, False, "", {}, [])
# Ways to begin that leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take a part of it away; peft
# can convert such an adapter to one for the whole base, and then says "true" here.
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
BY_DEFAULT = ("q_proj", "v_proj")  # peft's targets in a Llama
FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
N_FINGERPRINT = 16


def save_adapter(model: Transformer, folder: Path) -> None:
    """Write the adapters of `model` into `folder`; both files appear as one, or none does.

    Other programs may save and load there meanwhile. Whoever is killed while saving leaves the adapter before, or the
    new one with an empty ``adapter_config.json``, of which the other file holds a copy: `load_adapter` needs no more,
    and peft refuses it rather than read two halves.

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
    text, folder = json.dumps(config, indent=2), Path(folder)
    about = {"format": "pt", "lora_alpha": str(scale * rank), "base": json.dumps(_fingerprint(model)), "config": text}
    with saving("adapter", folder / TENSORS, folder / CONFIG) as (whole, part):
        whole.write(save(tensors, about))
        part.write(text.encode())


def load_adapter(model: Transformer, folder: Path) -> dict[str, LoRALinear]:
    """Freeze `model` and give it the adapters in `folder`, made here or by peft; returns them.

    Raises:
        FileNotFoundError: there is no adapter.
        BadAdapter: it cannot be read, is damaged, for another base, or of a kind that is not known here. Nothing is
            changed then.
    """
    folder = Path(folder)
    try:
        config, tensors, about = settled(lambda: _read(folder), folder / CONFIG, folder / TENSORS)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadAdapter(f"{folder.name} cannot be read: {error.strerror or error}") from None
    rank, alpha = config["r"], float(config["lora_alpha"])
    if not _same_number(about.get("lora_alpha"), alpha):
        raise BadAdapter(f"{folder.name}: the two files are of different adapters; save it again")
    _check_base(model, folder.name, about)
    _check_head(model, folder.name, tensors.pop(HEAD, None))
    pairs = _pairs(tensors, folder.name)
    for name, (a, b) in pairs.items():
        _check_pair(model, folder.name, name, a, b, rank)
    _check_targets(config, folder.name, tensors)
    targets = {name.rpartition(".")[2] for name in pairs}
    made = add_lora(model, rank, alpha / math.sqrt(rank) * rank if config.get("use_rslora") else alpha, tuple(targets))
    for name, layer in made.items():
        a, b = pairs.get(name, (torch.zeros_like(layer.A), torch.zeros_like(layer.B)))  # peft may leave layers out
        layer.A.data.copy_(a)
        layer.B.data.copy_(b)
    return made


def _same_number(said: str | None, number: float) -> bool:
    """Whether a file says nothing else."""
    try:
        return said is None or float(said) == number
    except ValueError:
        return False


def _read(folder: Path) -> tuple[dict, dict[str, Tensor], dict[str, str]]:
    """The description and the rest; that of a save that was not finished is in the other file."""
    path, tensors, about = folder / CONFIG, {}, {}
    text = read_file(path) if path.exists() else b""
    if not text and (folder / TENSORS).exists():
        tensors, about = _read_tensors(folder / TENSORS)
        text = about.get("config", "")
    if not text and not path.exists():
        raise FileNotFoundError(f"no adapter in {folder}: it has no {CONFIG}; save_adapter(model, folder) makes one")
    config = _checked(text, folder)
    return config, *((tensors, about) if about else _read_tensors(folder / TENSORS))


def _checked(text: bytes | str, folder: Path) -> dict:
    try:
        config = parse_json(text)
        alpha, kind = config["lora_alpha"], config["peft_type"]
        if type(config["r"]) is not int or type(alpha) not in (int, float) or not math.isfinite(alpha):
            raise ValueError
    except (ValueError, KeyError, TypeError, OverflowError):
        raise BadAdapter(f"{CONFIG} in {folder.name} is damaged: it does not say r and lora_alpha") from None
    on = [key for key, value in config.items() if key not in APPLIED | HARMLESS and value not in OFF]
    on += ["biases"] if config.get("bias", "none") != "none" else []
    if kind != "LORA" or on:
        what = f"LORA with {', '.join(on)}" if kind == "LORA" else kind
        raise BadAdapter(f"{folder.name} is an adapter of another kind ({what!s:.200}); plain LoRA is read here")
    if config.get("init_lora_weights") not in STARTS:
        start = f"{folder.name} began with init_lora_weights = {config['init_lora_weights']!s:.40}"
        how = "save it again with path_initial_model_for_weight_conversion"
        raise BadAdapter(f"{start}, which may change the base, and then it fits the changed one alone: {how}")
    if config.get("use_rslora") not in (None, True, False):
        raise BadAdapter(f"{folder.name}: use_rslora is {config['use_rslora']!s:.40}, neither true nor false")
    return config


def _check_targets(config: dict, folder: str, tensors: Iterable[str]) -> None:
    """peft passes over tensors of layers that the description does not name; so they are refused.

    A regular expression is taken at its word: one from a file may take for ever.
    """
    targets, layers, pattern = (config.get(key) for key in ("target_modules", "layers_to_transform", "layers_pattern"))
    targets = list(BY_DEFAULT) if targets is None else targets
    layers = [layers] if type(layers) is int else layers or None
    clear = isinstance(layers, list | None) and (isinstance(targets, list) or (isinstance(targets, str) and not layers))
    if not clear or pattern not in (*OFF, "layers", ["layers"]):
        said = f"target_modules {targets!s:.60}, layers_to_transform {layers!s:.60}, layers_pattern {pattern!s:.60}"
        raise BadAdapter(f"{folder} says {said}, from which its layers cannot be told")
    numbers = None if layers is None else {str(layer) for layer in layers}
    names = {targets} if isinstance(targets, str) else {str(target) for target in targets}
    for key in tensors:
        module = key.removeprefix("base_model.model.").rpartition(".lora_")[0]
        if isinstance(targets, str):
            named = targets != "all-linear" or module != "lm_head"
        else:
            parts = module.split(".")[-MOST_PARTS:]
            named = any(".".join(parts[i:]) in names for i in range(len(parts)))
            named = named and (numbers is None or not numbers.isdisjoint(module.split(".")[2:3]))
        if not named:
            raise BadAdapter(f"{folder} holds an adapter of {module}, which its description leaves out")


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.exists():
        other = " (an adapter_model.bin is a pickle, which may run any program: convert it to safetensors)"
        raise FileNotFoundError(f"no {path.name} in {path.parent}{other if path.with_suffix('.bin').exists() else ''}")
    if not path.is_file():  # a pipe waits for a writer for ever
        raise BadAdapter(f"{path.name} is no file")
    try:
        check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
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
    if not {a.dtype, b.dtype} <= FLOATS:
        raise BadAdapter(f"{folder} stores {name} as {a.dtype} and {b.dtype}, which are no numbers as they are")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise BadAdapter(f"{folder} is damaged: {name} holds numbers that are not finite")


def _check_base(model: Transformer, folder: str, about: dict[str, str]) -> None:
    """peft's own files say the base's name only, which may be any path; ours say a few of its numbers."""
    try:
        expected = parse_json(about.get("base", "null"))
        same = expected is None or torch.allclose(torch.tensor(expected), torch.tensor(_fingerprint(model)), rtol=0.01)
    except (ValueError, TypeError, RuntimeError):
        same = False
    if not same:
        raise BadAdapter(
            f"{folder} was trained on another base than {model.spec.name}: load the model that it belongs to"
        )


def _check_head(model: Transformer, folder: str, stored: Tensor | None) -> None:
    """peft puts the head that it stored in the place of the base's; so it has to be the same."""
    if stored is None:
        return
    head = dict(model.named_modules()).get("output")
    head = head.base if isinstance(head, LoRALinear) else head
    if head is None:
        raise BadAdapter(f"{folder} is for another base: {model.spec.name} has no layer output")
    if stored.shape != head.weight.shape or not torch.equal(stored.to(head.weight), head.weight):
        raise BadAdapter(f"{folder} holds another head than {model.spec.name} has, which is not read here")


def _fingerprint(model: Transformer) -> list[float]:
    """A few of the last norm's weights, which every training changes and no number format by more than 1%."""
    return [round(value, 6) for value in model.output_norm.weight[:N_FINGERPRINT].tolist()]


def _their_key(name: str, letter: str) -> str:
    if name == "output":
        return f"base_model.model.lm_head.lora_{letter}.weight"
    _, layer, part = name.split(".")
    return f"base_model.model.model.layers.{layer}.{THEIRS[part]}.lora_{letter}.weight"
