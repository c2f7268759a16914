"""Every reader on damaged files, many of them: read as they stand, or refused in one short line by a documented error.

The damage is the same for one seed: bytes, lengths and values that no program wrote.
"""

import json
import os
import struct
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from damage import (
    NO_FILES,
    TEMPLATE,
    Reader,
    damaged_json,
    fault,
    gguf_parts,
    memory_of,
    try_damaged_files,
    try_what_is_no_file,
)
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

# The valid files, small, and what is read of them. Each returns the folder's files by name.


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
    with suppress(BadText):  # a file may list no token for a letter
        tokens = tokenizer.encode("hello <|im_end|>") + tokenizer.prompt("hello")
        tokenizer.decode(tokens)
    with suppress(BadText):  # ... and have no template, or one that is none
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


LLM = (BadModelFile, NotThisFamily)
READERS = {
    "config.json": Reader(
        *(snapshot, read_configs, (ValueError,), ("config.json",), 3000),
        spoil=lambda name, content, rng: damaged_json(rng.choice(hub_configs()), rng),
    ),
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


HEADERS = {  # what a safetensors file says of itself, and the rest of its header
    "header of lists": lambda n: (b"", b'"a": [' + b"[[]]," * (n // 5) + b"0]}"),
    "header of texts": lambda n: (b",".join(b'"%x":""' % i for i in range(n // 10)), b'"a": 0}'),
    "header of numbers": lambda n: (b"", b'"a": {"dtype": "F32", "shape": [' + b"1," * (n // 2) + b"1]}}"),
}


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
    if what in HEADERS:
        header = b'{"__metadata__": {%s}, %s' % HEADERS[what](n)
        return struct.pack("<Q", len(header)) + header
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
        *(("safetensors header", what, 1_000_000) for what in HEADERS),
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
    most = memory_of(lambda: reader.read(tmp_path), reader.errors)
    assert most < 10 * len(content) + 20e6, f"{most / len(content):.0f} times its size"


def test_a_template_that_would_loop_for_ever_is_refused():
    source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(BadText, match="it takes more than 100,000 steps"):
        ChatTemplate(source, {}).render([])
    looks = "{% for a in messages %}{{ loop.index }} of {{ loop.length }}{{ '' if loop.last else ', ' }}{% endfor %}"
    assert ChatTemplate(looks, {}).render([{"role": "user"}] * 2) == "1 of 2, 2 of 2"


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", [name for name in READERS if name != "chat template"])  # whose file is a tokenizer's
def test_what_is_no_file_is_refused_in_one_short_line(name, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLMHW_HOME", str(tmp_path))
    try_what_is_no_file(READERS[name], kind, tmp_path, (FileNotFoundError, ModelNotFound))


@pytest.mark.parametrize("name", READERS)
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_short_line(name, tmp_path, monkeypatch, capsys):
    """The same damage each time; `LLMHW_FUZZ=10` tries ten times as much, and other damage each time."""
    monkeypatch.setenv("LLMHW_HOME", str(tmp_path))
    try_damaged_files(name, READERS[name], tmp_path)
