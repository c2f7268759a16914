"""Every reader on damaged files, many of them: read as they stand, or refused in one short line by a documented error.

The damage is the same for one seed: bytes, lengths and values that no program wrote.
"""

import json
import os
import random
import re
import struct
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from llmhw_helpers.course.ledger import Ledger
from llmhw_helpers.llm.adapters import load_adapter, save_adapter
from llmhw_helpers.llm.checkpoints import ModelNotFound, load_model
from llmhw_helpers.llm.headers import read_gguf_header, read_safetensors_header
from llmhw_helpers.llm.lora import BadAdapter, add_lora
from llmhw_helpers.llm.model_files import BadModelFile
from llmhw_helpers.llm.templates import BadText, ChatTemplate
from llmhw_helpers.llm.tokenizer import load_tokenizer
from llmhw_helpers.llm.transformer import NotThisFamily, Transformer
from llmhw_helpers.measure.calibration import Calibration, Rate, load_calibration
from llmhw_helpers.measure.machine import this_machine
from llmhw_helpers.specs.configs import from_config
from llmhw_helpers.specs.models import model

HANG = 20  # seconds of computing: none needs one, also on a busy machine
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TIMES = float(os.environ.get("LLMHW_FUZZ", "1"))  # so many times as many inputs, and others
SEED = 20 if TIMES == 1 else time.time_ns()
LONG = "x" * 600_000  # a text, and a name
NUMBERS = (0, 1, 2, 3, 7, 8, 31, 64, 255, 100_000, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
# JSON's kinds of values, and what Python's reader takes for them; "RAW" is put in as it stands.
VALUES = (
    *(None, True, False, "", "a", "\ud800", "\0", "../x", "a\nb", "1e5", "{{", [], {}, [[]], [None]),
    *(*NUMBERS, -1, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *([0, 1], ["a"], ["a", 10**9], [[0], 10**8], {"content": 3}, {"type": "x"}, [{"name": 1}], {"a": {}}, {"": 0}),
)
RAW = (
    "9" * 5000,
    "9" * 4300,
    "[[]" + ",[]" * 5000 + "]",
    "[" * 100_000,
    "[" * 500 + "]" * 500,
    '"\\ud800"',
    "1e999",
    "-",
    "NaN",
    "",
)


def inputs(name: str, n: int):
    """As many random generators as inputs, each of which can be made again from its number alone."""
    for number in range(round(n * TIMES)):
        yield number, random.Random(f"{SEED} {name} {number}")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes with a few changes: others, lying numbers, missing, twice."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            found[at : at + 1] = rng.randbytes(1)
        elif kind == 1:
            found[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) % 2**32)
        elif kind == 2:
            found[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
        elif kind == 3 and rng.random() < 0.3:
            del found[at:]
        elif kind == 4:
            del found[at : at + rng.choice((1, 2, 4, 8, 100))]
        elif kind == 5:
            found[at:at] = found[at : at + rng.choice((1, 8, 100))]
    return bytes(found)


def damaged_json(said: object, rng: random.Random) -> bytes:
    """JSON with a few values, names or letters that were others."""
    raw = rng.random() < 0.1
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        said = _changed(said, rng, "\0RAW" if raw else None)
    content = json.dumps(said)
    if raw:
        content = content.replace('"\\u0000RAW"', rng.choice(RAW))
    if rng.random() < 0.05 and (names := re.findall(r'"[^"\\\\]*": ', content)):
        at = rng.choice([found.end() for found in re.finditer("{", content)])
        content = content[:at] + rng.choice(names) + json.dumps(rng.choice(VALUES)) + ", " + content[at:]
    content = content.encode()
    return damaged(content, rng) if rng.random() < 0.1 else content


def damaged_safetensors(content: bytes, rng: random.Random) -> bytes:
    """The same for the JSON before the tensors, with a length that is right, so that it is read."""
    if rng.random() < 0.3:
        return damaged(content, rng)
    (length,) = struct.unpack_from("<Q", content)
    said = json.loads(content[8 : 8 + length])
    header = json.dumps(_lying(said, rng)).encode() if rng.random() < 0.5 else damaged_json(said, rng)
    header += b" " * rng.choice((0, 0, 0, -len(header) % 8, 1))
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _lying(said: dict, rng: random.Random) -> dict:
    """Entries of tensors that could be, and are not: places over each other, shapes of as many numbers, other types."""
    said = deepcopy(said)
    names = [name for name in said if name != "__metadata__"]
    for _ in range(rng.choice((1, 1, 2, 3))):
        entry, other = said[rng.choice(names)], said[rng.choice(names)]
        begin, end = entry["data_offsets"]
        kind = rng.randrange(9)
        if kind == 0:
            entry["data_offsets"] = other["data_offsets"]
        elif kind == 1:
            entry["data_offsets"] = [end, begin]
        elif kind == 2:
            entry["data_offsets"] = [begin + rng.choice((-4, 4, 2**63)), end + rng.choice((-4, 4, 2**63))]
        elif kind == 3:
            entry["shape"] = [*entry["shape"][::-1], *rng.choice(((), (1,), (0,), (2**32, 2**32), (-1,)))]
        elif kind == 4:
            entry["shape"] = [rng.choice(NUMBERS) for _ in range(rng.randrange(5))]
        elif kind == 5:  # no bytes: any number of rows
            entry |= {"shape": rng.choice(([0], [2**40, 0], [0, 2**63], [0] * 1000)), "data_offsets": [begin, begin]}
        elif kind == 6:
            entry["dtype"] = rng.choice(
                ("F64", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64")
            )
        elif kind == 7:
            layer = rng.choice(("99999", "2", "-1", "01", "9" * 5000))
            name = rng.choice(names)
            said[re.sub(r"layers\.\d+", f"layers.{layer}", name)] = dict(said[name])
        else:
            entry["shape"], other["shape"] = other["shape"], entry["shape"]
    return said


@dataclass
class Gguf:
    """A GGUF file in parts: pairs of a name and a value, with the number of its type; tensors by name.

    A value of type 9, an array, is the type of its items, and these.
    """

    pairs: list[tuple[str, int, object]]
    tensors: list[tuple[str, tuple[int, ...], int, int]]  # name, shape, type, offset
    n_bytes: int  # of all tensors

    def content(self, lie: Callable[[int], int] = lambda n: n) -> bytes:
        """The file; each count and length in it is as `lie` says."""
        text = lambda said: struct.pack("<Q", lie(len(said.encode()))) + said.encode()  # noqa: E731

        def packed(kind: int, value: object) -> bytes:
            if kind == 8:
                return text(value)
            if kind == 9:
                inner, items = value
                return struct.pack("<IQ", inner, lie(len(items))) + b"".join(packed(inner, each) for each in items)
            return struct.pack(GGUF_FORMS[kind], value)

        parts = [b"GGUF", struct.pack("<IQQ", 3, lie(len(self.tensors)), lie(len(self.pairs)))]
        for name, kind, value in self.pairs:
            parts += [text(name), struct.pack("<I", lie(kind) % 2**32), packed(kind, value)]
        for name, shape, kind, offset in self.tensors:
            parts += [text(name), struct.pack("<I", lie(len(shape)) % 2**32), struct.pack(f"<{len(shape)}Q", *shape)]
            parts += [struct.pack("<IQ", kind, offset)]
        before = b"".join(parts)
        return before + b"\0" * (-len(before) % 32) + struct.pack("<f", 1.0) * (self.n_bytes // 4)


GGUF_NAMES = (
    *("", "a", "general.alignment", "general.architecture", "general.name", "split.count", "split.no", "GGUF.version"),
    *(
        f"llama.{key}"
        for key in ("block_count", "vocab_size", "expert_count", "attention.key_length", "rope.freq_base")
    ),
    *(f"llama.{key}" for key in ("rope.scale_linear", "rope.scaling.attn_factor", "attention.value_length", "x", "")),
    *(f"tokenizer.ggml.{key}" for key in ("eot_token_id", "eom_token_id", "unknown_token_id", "add_bos_token", "x")),
    *(f"tokenizer.ggml.{key}" for key in ("add_eos_token", "scores", "token_type_count", "add_space_prefix", "")),
    *("tokenizer.chat_template.a", "tokenizer.chat_templates", "tokenizer.huggingface.json", "tokenizer."),
)
GGUF_FORMS = dict(
    zip(
        (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12),
        ("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?", "<Q", "<q", "<d"),
        strict=True,
    )
)


def damaged_gguf(content: bytes, rng: random.Random) -> bytes:
    """Other values and types, names and tensors; counts and lengths that lie; sometimes bytes."""
    if rng.random() < 0.25:
        return damaged(content, rng)
    file = gguf_parts()
    pairs, tensors = list(file.pairs), list(file.tensors)
    lies = [rng.randrange(400)] if rng.random() < 0.3 else []

    def lie(n: int) -> int:
        lies[:] = [each - 1 for each in lies if each > 0] if lies and lies[0] else lies
        if lies and not lies[0]:
            lies.clear()
            return rng.choice((n + 1, max(0, n - 1), 0, *NUMBERS))
        return n

    for _ in range(rng.choice((0, 1, 1, 2, 4)) if lies else rng.choice((1, 1, 1, 2, 4))):
        kind = rng.randrange(8)
        at, where = rng.randrange(len(pairs)), rng.randrange(len(tensors))
        name, shape, type_, offset = tensors[where]
        if kind <= 2:
            pairs[at] = (pairs[at][0], *_gguf_value(rng))
        elif kind == 3:
            pairs[at] = (rng.choice(GGUF_NAMES), *rng.choice((pairs[at][1:], _gguf_value(rng))))
        elif kind == 4:
            pairs[at:at] = rng.choice(
                ([], [pairs[rng.randrange(len(pairs))]], [(rng.choice(GGUF_NAMES), *_gguf_value(rng))])
            )
            del pairs[rng.randrange(len(pairs)) if rng.random() < 0.5 else len(pairs) :][:1]
        elif kind == 5:
            shape = rng.choice(
                (
                    shape[::-1],
                    (*shape, 1),
                    (1, *shape),
                    shape[:1],
                    (),
                    (0,),
                    (2**40, 0),
                    (0, 2**40),
                    (2**63, 2),
                    (2**32, 2**32),
                )
            )
            tensors[where] = (name, shape, type_, offset)
        elif kind == 6:
            tensors[where] = (
                name,
                shape,
                rng.choice((0, 1, 2, 8, 12, 14, 24, 26, 28, 30, 39, 99, 2**32 - 1)),
                rng.choice((offset, 0, 4, 2**63, 2**64 - 32, 2**64 - 1)),
            )
        else:
            others = (
                tensors[rng.randrange(len(tensors))][0],
                "output.weight",
                "rope_freqs.weight",
                "blk.99999.attn_q.weight",
                "",
                "x" * 65,
            )
            tensors[where] = (rng.choice(others), shape, type_, offset)
    return Gguf(pairs, tensors, file.n_bytes).content(lie)


def _gguf_value(rng: random.Random) -> tuple[int, object]:
    """Of any type, with its number."""
    kind = rng.choice((*GGUF_FORMS, 8, 8, 9, 9))
    if kind == 8:
        return kind, rng.choice(
            ("", "a", "llama", "gpt2", "smollm", "none", "linear", "yarn", "a\nb", "\0", LONG[:5000], "{{", TEMPLATE)
        )
    if kind == 9:
        inner, value = _gguf_value(rng)
        n = rng.choice((0, 1, 2, 8, 260)) if inner != 9 else rng.choice((0, 1, 2))
        return kind, (inner, [value] * n)
    if kind in (6, 12):
        return kind, rng.choice((0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf"), 0.5))
    if kind == 7:
        return kind, rng.random() < 0.5
    size = 8 * struct.calcsize(GGUF_FORMS[kind])
    value = rng.choice(NUMBERS) % 2**size
    return kind, value if GGUF_FORMS[kind][1].isupper() else value - 2 ** (
        size - 1
    ) if rng.random() < 0.5 else value % 2 ** (size - 1)


def _changed(said: object, rng: random.Random, value: object) -> object:
    """A copy in which one value somewhere is another, gone, or goes by another name."""
    inside = isinstance(said, dict | list) and len(said) > 0
    if not inside or rng.random() < 0.02:
        if value is not None:
            return value
        return LONG if rng.random() < 0.01 else rng.choice(VALUES)
    if isinstance(said, list):
        said = list(said)
        at = rng.randrange(len(said))
        said[at] = _changed(said[at], rng, value)
        if rng.random() < 0.05:
            said.append(said[at])
        return said
    said = dict(said)
    key = rng.choice(list(said))
    found = said[key]
    if rng.random() < 0.15:
        del said[key]
        if rng.random() < 0.5:
            said[rng.choice(("", "a\nb", "\ud800", "9", "-1", "rope_x", LONG[: rng.choice((5, 600_000))]))] = found
    else:
        said[key] = _changed(found, rng, value)
    return said


# The valid files, small, and what is read of them. Each returns the folder's files by name.


@cache
def gguf_parts() -> Gguf:
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "ll", "<|im_start|>", "<|im_end|>"]
    sizes = {"block_count": 2, "embedding_length": 8, "feed_forward_length": 12, "context_length": 64}
    sizes |= {"attention.head_count": 2, "attention.head_count_kv": 1, "rope.dimension_count": 4}
    pairs = [
        ("general.architecture", 8, "llama"),
        ("general.alignment", 4, 32),
        *((f"llama.{key}", 4, size) for key, size in sizes.items()),
        ("llama.attention.layer_norm_rms_epsilon", 6, 1e-5),
        ("llama.rope.scaling.type", 8, "linear"),
        ("llama.rope.scaling.factor", 6, 2.0),
        ("tokenizer.ggml.model", 8, "gpt2"),
        ("tokenizer.ggml.pre", 8, "smollm"),
        ("tokenizer.ggml.tokens", 9, (8, tokens)),
        ("tokenizer.ggml.token_type", 9, (5, [1] * (len(tokens) - 2) + [3, 3])),
        ("tokenizer.ggml.merges", 9, (8, ["h e", "l l"])),
        ("tokenizer.ggml.eos_token_id", 4, len(tokens) - 1),
        ("tokenizer.ggml.bos_token_id", 4, len(tokens) - 2),
        ("tokenizer.chat_template", 8, TEMPLATE),
    ]
    shapes = {"token_embd": (8, len(tokens)), "output_norm": (8,)}  # in the file, the longest-stepping one is last
    for layer in ("blk.0", "blk.1"):
        shapes |= {f"{layer}.{part}": (8, 8) for part in ("attn_q", "attn_output")}
        shapes |= {f"{layer}.{part}": (8, 4) for part in ("attn_k", "attn_v")}
        shapes |= {f"{layer}.{part}": (8, 12) for part in ("ffn_gate", "ffn_up")}
        shapes |= {f"{layer}.ffn_down": (12, 8), f"{layer}.attn_norm": (8,), f"{layer}.ffn_norm": (8,)}
    tensors, offset = [], 0
    for name, shape in shapes.items():
        tensors.append((f"{name}.weight", shape, 0, offset))
        offset += -(-4 * prod(shape) // 32) * 32
    return Gguf(pairs, tensors, offset)


def gguf_file(folder: Path) -> None:
    (folder / "model.gguf").write_bytes(gguf_parts().content())


def snapshot(folder: Path) -> None:
    config = {
        **{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12, "vocab_size": 270},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5},
        **{"tie_word_embeddings": True, "eos_token_id": 3, "rope_theta": 1e4, "torch_dtype": "float32"},
        "rope_scaling": {
            **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "original_max_position_embeddings": 32,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    wide = {"self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "self_attn.v_proj": (4, 8)}
    wide |= {"self_attn.o_proj": (8, 8), "mlp.gate_proj": (12, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12)}
    wide |= {"input_layernorm": (8,), "post_attention_layernorm": (8,)}
    tensors = {f"model.layers.{i}.{part}.weight": torch.ones(shape) for i in (0, 1) for part, shape in wide.items()}
    tensors |= {"model.embed_tokens.weight": torch.ones(270, 8), "model.norm.weight": torch.ones(8)}
    save_file(tensors, folder / "model.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Library(
        models.BPE({letter: i for i, letter in enumerate([*letters, "he", "ll"])}, [("h", "e"), ("l", "l")])
    )
    library.normalizer = normalizers.NFC()
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    library.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "<|im_start|>", "<|im_end|>")])
    library.save(str(folder / "tokenizer.json"))
    content = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    said = {
        **{"bos_token": "<s>", "eos_token": {"content": "<|im_end|>", **content}, "chat_template": TEMPLATE},
        **{"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10**30, "add_prefix_space": False},
        "added_tokens_decoder": {"258": {"content": "<s>", **content}, "262": {"content": "<x>", **content}},
        "additional_special_tokens": ["<|im_start|>", "<y>"],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [260, 258]}))
    (folder / "added_tokens.json").write_text(json.dumps({"<z>": 263}))


def quantised(folder: Path) -> None:
    snapshot(folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        **{"quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed"},
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "float", "symmetric": True, "block_structure": [4, 4]},
                "input_activations": None,
            }
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if "proj" in name]:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        rows, columns = tensors[name].shape
        tensors[name + "_scale"] = torch.ones(-(-rows // 4), -(-columns // 4))
    save_file(tensors, folder / "model.safetensors")
    (folder / "model.safetensors.index.json").unlink()


@cache
def base() -> Transformer:
    """What the adapters below belong to."""
    spec = replace(
        model("SmolLM2-135M"),
        **{"n_layers": 2, "d_model": 8, "n_heads": 2, "n_kv_heads": 1, "head_dim": 4, "d_ff": 12},
        **{"vocab_size": 20, "context_length": 64},
    )
    torch.manual_seed(0)
    return Transformer(spec)


def adapter(folder: Path) -> None:
    network = deepcopy(base())
    add_lora(network, 2, 4.0, ("attn_q", "ffn_down"))
    save_adapter(network, folder)


def ledger(folder: Path) -> None:
    book = Ledger("a")
    book.predict("one", 2.0, bound="memory", guess=1.0)
    book.measure("one", 3.0)
    book.predict("two", 2.0, unit="B")
    book.measure("two", None)
    Ledger("b").predict("three", 1.0)


def calibration(folder: Path) -> None:
    rate = Rate("FLOP/s", 2e9, 1e9, 0.5)
    memory = Rate("B/s", 2e9, 1e9, 0.5, "a note")
    machine = this_machine()
    Calibration(machine, "today", {"fp32": rate, "bf16": rate}, {"fp16": "no"}, memory, memory, memory).save()


def read_model(folder: Path) -> None:
    file = folder / "model.gguf"
    load_model(file if os.path.lexists(file) else folder, progress=False)


def read_tokenizer(folder: Path) -> None:
    file = folder / "model.gguf"
    tokenizer = load_tokenizer(file if os.path.lexists(file) else folder)
    tokens = tokenizer.encode("hello <|im_end|>") + tokenizer.prompt("hello")
    tokenizer.decode(tokens)
    with suppress(BadText):  # a file may have no template, or one that is none
        tokenizer.chat_tokens([{"role": "user", "content": "hello <|im_end|>"}])


def read_adapter(folder: Path) -> None:
    load_adapter(deepcopy(base()), folder)


def read_ledger(folder: Path) -> None:
    book = Ledger("a")
    assert book.everything() is not None
    str(book).encode()
    book.predict("one", 1.0)
    book.measure("one", 2.0)
    assert book.entries()["one"]["measured"] == 2.0


def read_calibration(folder: Path) -> None:
    found = load_calibration()
    if found is not None:
        str(found).encode()
        assert found.roof().peak("fp32") > 0
        assert found.half() in found.products
        found.faster(found)


def read_configs(folder: Path) -> None:
    from_config(folder / "config.json")


def read_template(folder: Path) -> None:
    source = (folder / "chat_template.jinja").read_bytes().decode(errors="replace")
    ChatTemplate(source, {}).pieces([{"role": "user", "content": "hello"}], True, ["<|im_end|>"])


def template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATE)


@cache
def hub_configs() -> list[dict]:
    said = json.loads((Path(__file__).parent / "specs" / "hub_configs.json").read_text())
    return [each["config"] for each in said.values()]


@dataclass
class Reader:
    """Files, a reading of them, the errors that it documents, and how many damaged ones it is tried on."""

    make: Callable[[Path], None]
    read: Callable[[Path], None]
    errors: tuple[type[Exception], ...]
    files: tuple[str, ...]
    n: int


LLM = (BadModelFile, NotThisFamily)
READERS = {
    "config.json": Reader(snapshot, read_configs, (ValueError,), ("config.json",), 3000),
    "GGUF model": Reader(gguf_file, read_model, LLM, ("model.gguf",), 300),
    "GGUF tokenizer": Reader(gguf_file, read_tokenizer, LLM, ("model.gguf",), 300),
    "GGUF header": Reader(
        gguf_file, lambda folder: read_gguf_header(folder / "model.gguf"), (BadModelFile,), ("model.gguf",), 600
    ),
    "safetensors header": Reader(
        *(snapshot, lambda folder: read_safetensors_header(folder / "model.safetensors"), (BadModelFile,)),
        *(("model.safetensors",), 1000),
    ),
    "snapshot": Reader(
        *(snapshot, read_model, LLM, ("config.json", "model.safetensors", "model.safetensors.index.json"), 300)
    ),
    "quantised snapshot": Reader(quantised, read_model, LLM, ("config.json", "model.safetensors"), 300),
    "tokenizer.json": Reader(snapshot, read_tokenizer, LLM, ("tokenizer.json",), 300),
    "tokenizer_config.json": Reader(
        *(snapshot, read_tokenizer, LLM, ("tokenizer_config.json", "generation_config.json", "added_tokens.json"), 400)
    ),
    "adapter": Reader(
        *(adapter, read_adapter, (BadAdapter,), ("adapter_config.json", "adapter_model.safetensors"), 400)
    ),
    "ledger": Reader(ledger, read_ledger, (), ("ledger.json",), 400),
    "calibration": Reader(calibration, read_calibration, (), ("calibration.json",), 1500),
    "chat template": Reader(template, read_template, (BadText,), ("chat_template.jinja",), 300),
}


def spoilt(name: str, content: bytes, reader: Reader, rng: random.Random) -> bytes:
    if name == "config.json" and reader.read is read_configs:
        return damaged_json(rng.choice(hub_configs()), rng)
    if name.endswith(".safetensors"):
        return damaged_safetensors(content, rng)
    if name.endswith(".gguf"):
        return damaged_gguf(content, rng)
    return damaged_json(json.loads(content), rng) if name.endswith(".json") else damaged(content, rng)


def fault(read: Callable[[], None], errors: tuple[type[Exception], ...]) -> str | None:
    """What was wrong with an answer, other than what is documented: an error of these very kinds, in one short line."""
    begin = time.process_time()
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            read()
        said = [str(each.message) for each in told]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the tokenizers library's panics are no Exceptions
        if type(error) not in errors:
            return f"{type(error).__name__}: {error}"[:300]
        said = [str(error)]
    if wrong := [each for each in said if len(each) > 1000 or len(each.splitlines()) != 1]:
        return f"no short line: {wrong[0][:300]!r}"
    return "it hangs" if time.process_time() - begin > HANG else None


def test_a_file_that_lies_about_its_size_costs_nothing(tmp_path):
    """A layer of a high number makes the rest believable; an embedding without columns, any number of rows."""
    snapshot(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    path, tensors = tmp_path / "config.json", load_file(tmp_path / "model.safetensors")
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"num_hidden_layers": 100_000}))
    last = {"model.layers.99999.self_attn.q_proj.weight": torch.ones(8, 8)}
    save_file(tensors | last, tmp_path / "model.safetensors")
    with pytest.raises(BadModelFile, match="says 100000 layers, and has 21 tensors"):
        load_model(tmp_path)
    path.write_text(json.dumps(said))
    save_file(tensors | {"model.embed_tokens.weight": torch.ones(10**9, 0)}, tmp_path / "model.safetensors")
    for load in (load_model, load_tokenizer):
        with pytest.raises(BadModelFile, match=r"token_embd.weight is \(1000000000, 0\), without a number in it"):
            load(tmp_path)


def many(what: str, n: int) -> bytes:
    """A file of `n` letters or so, of as many small things as it can hold."""
    file, fields = gguf_parts(), b'{"model_type": "llama", "r": 2, "lora_alpha": 4, "peft_type": "LORA", "x": '
    if what == "lists":
        return fields + b"[" + b"[]," * (n // 3) + b"0]}"
    if what == "lists in lists":
        return fields + b"[" + b"[[]]," * (n // 5) + b"0]}"
    if what == "layers":
        return b'{"r": 2, "lora_alpha": 4, "peft_type": "LORA", "layers_to_transform": [' + b"0," * (n // 2) + b"0]}"
    if what == "template":
        return b"{{1}}" * (n // 5)
    if what == "shape":
        header = b'{"a": {"dtype": "F32", "shape": [%d, "a"], "data_offsets": [0, 4]}}' % (100 * n)
        return struct.pack("<Q", len(header)) + header + bytes(4)
    tensors = [(str(i), (8,), 0, 0) for i in range(n // 38)] if what == "tensors" else []
    pairs = [(str(i), 0, 0) for i in range(n // 18)] if what == "pairs" else []
    pairs += [("a", 9, (9, [(0, [])] * (n // 12)))] if what == "arrays" else []
    return replace(file, pairs=file.pairs + pairs, tensors=file.tensors + tensors).content()


@pytest.mark.parametrize(
    ("name", "what", "n"),
    [
        *(("GGUF model", what, 500_000) for what in ("pairs", "tensors", "arrays")),
        *(("GGUF header", what, 500_000) for what in ("pairs", "tensors", "arrays")),
        *((name, "lists", 2_000_000) for name in ("config.json", "adapter", "ledger", "calibration", "snapshot")),
        *((name, "lists in lists", 2_000_000) for name in ("config.json", "adapter", "ledger")),
        ("adapter", "layers", 700_000),
        ("safetensors header", "shape", 1_000_000),
        ("chat template", "template", 200_000),
    ],
)
def test_no_file_takes_more_memory_than_ten_times_its_size(name, what, n, tmp_path, monkeypatch, capsys):
    """And 20 MB, for small ones. PyTorch's and the tokenizers library's own memory is not counted here."""
    monkeypatch.setenv("LLMHW_HOME", str(tmp_path))
    reader = READERS[name]
    reader.make(tmp_path)
    fault(lambda: reader.read(tmp_path), reader.errors)  # what it imports is not the damaged file's
    path, content = next(tmp_path.rglob(reader.files[0])), many(what, n)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        found = fault(lambda: reader.read(tmp_path), reader.errors)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found is None
    assert most < 10 * len(content) + 20e6, f"{most / len(content):.0f} times its size"


def test_a_template_that_would_loop_for_ever_is_refused():
    source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(BadText, match="it takes more than 100,000 steps"):
        ChatTemplate(source, {}).render([])
    looks = "{% for a in messages %}{{ loop.index }} of {{ loop.length }}{{ '' if loop.last else ', ' }}{% endfor %}"
    assert ChatTemplate(looks, {}).render([{"role": "user"}] * 2) == "1 of 2, 2 of 2"


# What may lie where a file is wanted.
NO_FILES = {
    "a folder": Path.mkdir,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a name that is too long": lambda path: path.symlink_to("x" * 300),
    "a pipe": os.mkfifo,
}


@contextmanager
def nobody_waits_for(pipe: Path):
    """For whoever opens it to read: there is no writer. One who does is set free, and reported."""
    done, waiting = threading.Event(), []

    def look():
        while not done.wait(0.02):
            with suppress(OSError):  # there is no reader
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
                waiting.append(pipe.name)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not waiting


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", [name for name in READERS if name != "chat template"])  # whose file is a tokenizer's
def test_what_is_no_file_is_refused_in_one_short_line(name, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLMHW_HOME", str(tmp_path))
    reader = READERS[name]
    reader.make(tmp_path)
    for file in reader.files:
        path = next(tmp_path.rglob(file))
        content = path.read_bytes()
        path.unlink()
        NO_FILES[kind](path)
        with nobody_waits_for(path) if kind == "a pipe" else nullcontext():
            found = fault(lambda: reader.read(tmp_path), (*reader.errors, FileNotFoundError, ModelNotFound))
        assert found is None, f"{file}: {found}"
        (path.rmdir if kind == "a folder" else path.unlink)()
        path.write_bytes(content)


@pytest.mark.parametrize("name", READERS)
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_short_line(name, tmp_path, monkeypatch, capsys):
    """The same damage each time; `LLMHW_FUZZ=10` tries ten times as much, and other damage each time."""
    monkeypatch.setenv("LLMHW_HOME", str(tmp_path))
    reader = READERS[name]
    reader.make(tmp_path)
    paths = [next(tmp_path.rglob(file)) for file in reader.files]
    whole = {path: path.read_bytes() for path in paths}
    assert fault(lambda: reader.read(tmp_path), ()) is None
    for number, rng in inputs(name, reader.n):
        path = rng.choice(paths)
        content = spoilt(path.name, whole[path], reader, rng)
        path.write_bytes(content)
        found = fault(lambda: reader.read(tmp_path), reader.errors)
        assert found is None, f"{path.name} of {SEED} {name} {number}: {found}: {content[:200]}"
        for each, before in whole.items():
            each.write_bytes(before)
        for aside in path.parent.glob("ledger.damaged-*"):
            aside.unlink()
