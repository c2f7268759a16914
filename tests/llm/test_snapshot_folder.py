"""Snapshots: the index says what counts, every tensor has a place, small numbers get their scales, or one line."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from llmhw_helpers.llm.checkpoints import BadModelFile, load_model, open_checkpoint
from llmhw_helpers.llm.snapshot_folder import ALONE, INDEX

TOKENS = torch.randint(0, 96, (2, 60), generator=torch.Generator().manual_seed(0))
ATOL = 1e-4


@pytest.fixture(scope="module")
def llama(small_llama):
    return small_llama()


@pytest.fixture
def sharded(llama, tmp_path):
    llama.save_pretrained(tmp_path, max_shard_size="15KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    return tmp_path


@pytest.fixture
def single(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.glob("*.safetensors")] == [ALONE]
    return tmp_path


def is_the_same(folder, llama):
    with torch.inference_mode():
        torch.testing.assert_close(load_model(folder)(TOKENS), llama(TOKENS).logits, atol=ATOL, rtol=ATOL)


def refused(folder, said):
    with pytest.raises(BadModelFile, match=said) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def others(llama):
    """Weights of another training."""
    return {name: 2 * tensor for name, tensor in llama.state_dict().items()}


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def metas(llama) -> dict[str, torch.Tensor]:
    """The names of Meta's own files, for all that is read here."""
    parts = {"self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv"}
    parts |= {"self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3"}
    parts |= {"mlp.down_proj": "feed_forward.w2", "post_attention_layernorm": "ffn_norm"}
    parts |= {"input_layernorm": "attention_norm", "embed_tokens": "tok_embeddings", "lm_head": "output"}
    tensors = {}
    for name, tensor in llama.state_dict().items():
        for theirs, metas in parts.items():
            name = name.replace(theirs, metas)
        tensors[name.removeprefix("model.")] = tensor.clone()
    return tensors


@pytest.mark.parametrize(
    "name",
    ["consolidated.safetensors", "z.safetensors", "model-00001-of-00099.safetensors", "adapter_model.safetensors"],
)
def test_what_the_index_does_not_name_does_not_count(sharded, llama, name):
    save_file(others(llama), sharded / name)
    is_the_same(sharded, llama)
    save_file(metas(llama), sharded / name)
    is_the_same(sharded, llama)


@pytest.mark.parametrize("name", ["consolidated.safetensors", "a.safetensors", "adapter_model.safetensors"])
def test_beside_a_file_for_all_no_other_counts(single, llama, name):
    save_file(others(llama), single / name)
    is_the_same(single, llama)


def test_an_index_of_one_file_is_an_index(single, llama):
    (single / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(load_file(single / ALONE), ALONE)}))
    is_the_same(single, llama)


def test_an_only_file_may_have_any_name(single, llama):
    (single / ALONE).rename(single / "model.fp32.safetensors")
    save_file(others(llama), single / "consolidated.safetensors")
    is_the_same(single, llama)
    save_file(others(llama), single / "again.safetensors")
    refused(single, f"again.safetensors and 1 more, and no {INDEX}: get that as well")


def test_pickles_alone_are_refused_with_the_reason(single):
    (single / "model.safetensors").rename(single / "pytorch_model.bin")
    refused(single, r"holds no \*.safetensors file \(a \*.bin is a pickle, which may run any program: convert it\)")


@pytest.mark.parametrize(("name", "line"), [("config.json", "cannot be read"), ("model.safetensors", "is no file")])
def test_a_folder_in_the_place_of_a_file(single, name, line):
    (single / name).unlink()
    (single / name).mkdir()
    refused(single, line)


def test_shards_without_their_index_are_refused(sharded):
    (sharded / INDEX).unlink()
    refused(sharded, f"more, and no {INDEX}")


def test_an_index_and_another_file_for_all_are_refused_as_nobody_knows_which_counts(sharded, llama):
    save_file(others(llama), sharded / ALONE)
    refused(sharded, f"holds {ALONE} and an index of other files")


def test_metas_layout_alone_is_refused(single, llama):
    (single / ALONE).unlink()
    save_file(metas(llama), single / "consolidated.safetensors")
    refused(single, "is in Meta's layout: get the one of Hugging Face, or convert it")


def map_of(folder):
    return json.loads((folder / INDEX).read_text())["weight_map"]


def test_a_missing_shard_is_named(sharded):
    name = max(map_of(sharded).values())
    (sharded / name).unlink()
    refused(sharded, f"names '{name}', which is not in this folder: get it as well")


def test_a_file_outside_the_folder_is_not_opened(sharded, llama, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "all.safetensors"
    save_file(others(llama), elsewhere)
    for path in (str(elsewhere), f"../{elsewhere.parent.name}/all.safetensors"):
        change(sharded / INDEX, weight_map=dict.fromkeys(others(llama), path))
        refused(sharded, "which is not in this folder")


def test_a_tensor_that_its_file_does_not_hold_is_named(sharded):
    change(sharded / INDEX, weight_map=map_of(sharded) | {"model.layers.0.mlp.x": next(iter(map_of(sharded).values()))})
    refused(sharded, f"{INDEX} names model.layers.0.mlp.x, which model-.* does not hold")


def test_a_tensor_in_two_files_is_refused(sharded):
    name, file = min(map_of(sharded).items(), key=lambda named: named[1])
    other = max(map_of(sharded).values())
    save_file(load_file(sharded / other) | {name: 2 * load_file(sharded / file)[name]}, sharded / other)
    refused(sharded, f"{name} stands in {other}, where {INDEX} does not name it")


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": null}']
)
def test_an_index_that_says_nothing_is_refused(sharded, content):
    (sharded / INDEX).write_text(content)
    refused(sharded, "has no weight_map")
    (sharded / INDEX).write_text(content[:-1])
    refused(sharded, f"{INDEX} is not JSON")


def with_tensors(folder, **changes):
    tensors = load_file(folder / ALONE)
    for name, tensor in changes.items():
        tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / ALONE)


FIRST = "model__layers__0__"


@pytest.mark.parametrize(
    "name",
    [
        *("self_attn__q_norm__weight", "self_attn__q_proj__bias", "mlp__gate_proj__g_idx"),
        *("self_attn__q_proj__weight_scale", "self_attn__k_proj__k_scale", "block_sparse_moe__gate__weight"),
        "self_attn__q_proj__lora_A__weight",
    ],
)
def test_a_tensor_that_has_no_place_is_refused(single, name):
    with_tensors(single, **{FIRST + name: torch.ones(4)})
    refused(single, "for which .* has no place|with 1 scale, which is not read here")


def test_a_layer_more_than_the_config_says_is_refused(single):
    change(single / "config.json", num_hidden_layers=2)
    refused(single, r"holds 'blk\.2\..*' and 8 more tensors, for which its architecture has no place")


def test_gguf_names_in_a_snapshot_are_not_taken_for_its_own(single):
    tensors = load_file(single / ALONE)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors["blk.0.ffn_up.weight"] = tensors.pop(name)
    save_file(tensors, single / ALONE)
    refused(single, r"holds 'blk\.0\.ffn_up\.weight', for which a Llama has no place")


def test_the_frequencies_of_older_files_are_passed_over_as_transformers_does(single, llama):
    with_tensors(single, **{f"{FIRST}self_attn__rotary_emb__inv_freq": torch.ones(4)})
    is_the_same(single, llama)


@pytest.mark.parametrize("same", [True, False])
def test_a_head_beside_a_tied_embedding_must_be_the_embedding(small_llama, tmp_path, same):
    llama = small_llama(tie_word_embeddings=True)
    llama.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / ALONE)
    with_tensors(tmp_path, lm_head__weight=llama.lm_head.weight.detach() * (1 if same else 1.1))
    if same:
        is_the_same(tmp_path, llama)
    else:
        refused(tmp_path, "says that the head is the embedding, and holds another head")


def test_a_name_that_is_no_text_is_the_folders(single):
    for name in (None, [], 3):
        change(single / "config.json", _name_or_path=name)
        assert open_checkpoint(single).spec.name == single.name


# Small numbers beside scales: how one matrix is stored, and what the config says of it.
def by_tensor(w):
    scale = w.abs().max() / 448
    return {"weight": (w / scale).to(torch.float8_e4m3fn), "weight_scale": scale.reshape(1)}


def by_row(w):
    scale = w.abs().amax(1, keepdim=True) / 448
    return {"weight": (w / scale).to(torch.float8_e4m3fn), "weight_scale": scale.bfloat16()}


def in_int8_by_row(w):
    scale = w.abs().amax(1, keepdim=True) / 127
    return {"weight": (w / scale).round().to(torch.int8), "weight_scale": scale}


def by_block(w, rows=16, columns=8, name="weight_scale_inv"):
    """A scale for 16 x 8 numbers; the last blocks are cut off where a side is no multiple."""
    padded = torch.nn.functional.pad(w, (0, -w.shape[1] % columns, 0, -w.shape[0] % rows))
    scale = padded.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).abs().amax((1, 3)) / 448
    spread = torch.kron(scale, torch.ones(rows, columns))[: w.shape[0], : w.shape[1]]
    return {"weight": (w / spread).to(torch.float8_e4m3fn), name: scale}


def by_group(w):
    return by_block(w, 1, 4, "weight_scale")


def of_llm_int8(w):
    scale = w.abs().amax(1)
    codes = (w / scale[:, None] * 127).round().to(torch.int8)
    return {"weight": codes, "SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)}


def compressed(strategy, kind="float", **weights):
    group = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": kind, "symmetric": True, "strategy": strategy}}
    group["weights"] |= {"dynamic": False, "group_size": None, "observer": "minmax", "actorder": None} | weights
    said = {"quant_method": "compressed-tensors", "format": f"{kind}-quantized", "quantization_status": "compressed"}
    return said | {
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "version": "0.9",
    }


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False, "llm_int8_threshold": 6.0}
KINDS = {
    "fp8, a scale a tensor": (by_tensor, compressed("tensor"), 2**-4),
    "fp8, as files of 2024 say it": (by_tensor, compressed("tensor") | {"quantization_status": "frozen"}, 2**-4),
    "fp8, a scale a row": (by_row, compressed("channel"), 2**-4),
    "fp8, a scale a group": (by_group, compressed("group", group_size=4), 2**-4),
    "fp8, a scale a block": (by_block, FP8 | {"weight_block_size": [16, 8]}, 2**-4),
    "fp8, a scale a block, otherwise written": (
        lambda w: by_block(w, name="weight_scale"),
        compressed("block", block_structure=[16, 8]),
        2**-4,
    ),
    "int8, a scale a row": (in_int8_by_row, compressed("channel", "int"), 2**-7),
    "int8 of bitsandbytes": (of_llm_int8, INT8, 2**-7),
}


def pack(folder, store, said):
    """Store the layers' matrices so."""
    tensors = {}
    for name, tensor in load_file(folder / ALONE).items():
        if name.endswith("proj.weight"):
            tensors |= {name.removesuffix("weight") + part: value for part, value in store(tensor).items()}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / ALONE)
    change(folder / "config.json", quantization_config=said)


def unpack(parts):
    """What the stored numbers stand for, in fp32, by the formula of the format."""
    wide = parts["weight"].float()
    if "SCB" in parts:
        return wide * parts["SCB"][:, None] / 127
    scale = parts["weight_scale_inv" if "weight_scale_inv" in parts else "weight_scale"].float()
    if scale.dim() == 2 and scale.shape[1] > 1:
        rows = 1 if len(scale) == len(wide) else 16
        spread = torch.kron(scale, torch.ones(rows, 4 if rows == 1 else 8))
        return wide * spread[: wide.shape[0], : wide.shape[1]]
    return wide * scale


@pytest.mark.filterwarnings("ignore:.*activations in 8 bits")
@pytest.mark.parametrize("kind", KINDS)
def test_small_numbers_are_read_as_what_they_stand_for(single, llama, kind):
    store, said, error = KINDS[kind]
    pack(single, store, said)
    model = load_model(single)
    for layer, theirs in zip(model.blk, llama.model.layers, strict=True):
        for ours, weight in ((layer.attn_q, theirs.self_attn.q_proj), (layer.ffn_down, theirs.mlp.down_proj)):
            weight = weight.weight.detach()
            torch.testing.assert_close(ours.weight.detach(), unpack(store(weight)), atol=0, rtol=1e-6)
            assert (ours.weight - weight).abs().max() <= error * weight.abs().max()
    assert torch.equal(model.output.weight, llama.lm_head.weight)
    assert open_checkpoint(single).spec.n_params == sum(p.numel() for p in model.parameters())


@pytest.mark.filterwarnings("ignore:.*activations in 8 bits")
@pytest.mark.parametrize("kind", KINDS)
def test_some_rows_are_those_of_the_whole_with_their_scales(single, kind):
    store, said, _ = KINDS[kind]
    pack(single, store, said)
    opened = open_checkpoint(single)
    whole = opened.tensor("blk.1.ffn_up.weight")
    for first, n_rows in ((0, 10), (23, 30), (len(whole) - 1, 1)):
        rows = opened.fill("blk.1.ffn_up.weight", torch.empty(n_rows, whole.shape[1]), first)
        assert torch.equal(rows, whole[first : first + n_rows])


@pytest.mark.filterwarnings("ignore:.*activations in 8 bits")
def test_fp8_in_blocks_is_what_transformers_dequantises(small_llama, tmp_path):
    llama = small_llama(intermediate_size=1040)  # more rows than are read at a time
    llama.save_pretrained(tmp_path)
    pack(tmp_path, by_block, FP8 | {"weight_block_size": [16, 8]})
    stored, opened = load_file(tmp_path / ALONE), open_checkpoint(tmp_path)
    for name in ("up_proj", "down_proj"):
        module = f"model.layers.1.mlp.{name}"
        parts = stored[f"{module}.weight"], stored[f"{module}.weight_scale_inv"]
        oracle = Fp8Dequantize(None)._dequantize_one(*parts, torch.float32)
        assert torch.equal(opened.tensor(f"blk.1.ffn_{name.removesuffix('_proj')}.weight"), oracle)


def test_blocks_that_are_cut_off(small_llama, tmp_path):
    small_llama(intermediate_size=84).save_pretrained(tmp_path)  # five blocks of 16 rows, and a quarter
    weight = load_file(tmp_path / ALONE)["model.layers.0.mlp.up_proj.weight"]
    pack(tmp_path, by_block, FP8 | {"weight_block_size": [16, 8]})
    with pytest.warns(UserWarning, match="asks for activations in 8 bits; here its weights alone are"):
        found = open_checkpoint(tmp_path).tensor("blk.0.ffn_up.weight")
    assert (found - weight).abs().max() <= 2**-4 * weight.abs().max()


def test_without_activations_in_8_bits_nothing_is_said(single):
    pack(single, by_row, compressed("channel"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(single)
    said = compressed("channel")
    said["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": True}
    change(single / "config.json", quantization_config=said)
    with pytest.warns(UserWarning, match="activations in 8 bits"):
        load_model(single)


def zero_points(w):
    parts = in_int8_by_row(w)
    return parts | {"weight_zero_point": torch.zeros(len(w), 1, dtype=torch.int8)}


def unsigned(w):
    return {"weight": torch.zeros_like(w, dtype=torch.uint8), "weight_scale": torch.ones(1)}


CHANNEL = compressed("channel", "int")
NOT_READ = {
    "gptq": (in_int8_by_row, {"quant_method": "gptq", "bits": 4}, "is quantised by gptq; read are"),
    "awq": (in_int8_by_row, {"quant_method": "awq", "bits": 4}, "is quantised by awq; read are"),
    "four bits": (of_llm_int8, INT8 | {"load_in_8bit": False, "load_in_4bit": True}, "with load_in_8bit = False"),
    "no method": (in_int8_by_row, {"bits": 8}, "is quantised by None"),
    "a word": (in_int8_by_row, "fp8", "has fp8 where settings should be"),
    "nothing said": (by_tensor, None, "stored as F8_E4M3 with 1 scale, .*: its config.json says no method"),
    "no scale": (lambda w: {"weight": w.to(torch.float8_e4m3fn)}, FP8, "stored as F8_E4M3 with no scale, which is not"),
    "int8 without a word": (lambda w: {"weight": w.to(torch.int8)}, None, "stored as I8 with no scale, .* no method"),
    "a float of another kind": (lambda w: {"weight": w.to(torch.float8_e5m2fnuz)}, FP8, "stored as F8_E5M2FNUZ"),
    "unsigned": (unsigned, CHANNEL, "stored as U8 with 1 scale, which is not read here"),
    "zero points": (zero_points, CHANNEL, "holds '.*weight_zero_point' and 20 more tensors, for which"),
    "not symmetric": (in_int8_by_row, compressed("channel", "int", symmetric=False), "with symmetric = False"),
    "out of order": (in_int8_by_row, compressed("group", "int", actorder="group"), "with actorder = group"),
    "another format": (in_int8_by_row, CHANNEL | {"format": "pack-quantized"}, "with format = pack-quantized"),
    "a cache in 8 bits": (in_int8_by_row, CHANNEL | {"kv_cache_scheme": {"num_bits": 8}}, "with kv_cache_scheme"),
    "rotated": (in_int8_by_row, CHANNEL | {"transform_config": {"a": 1}}, "with transform_config"),
    "a setting of tomorrow": (in_int8_by_row, CHANNEL | {"exponent_bias": 3}, "with exponent_bias = 3, which is not"),
    "another scale": (by_tensor, INT8, "stored as F8_E4M3 with 1 scale, which is not read here"),
    "blocks that nobody names": (by_block, FP8, r"is \(\d+, \d+\) and its scale \(\d+, \d+\), which do not fit"),
    "blocks that do not fit": (by_block, FP8 | {"weight_block_size": [8, 8]}, r"do not fit \(blocks of \(8, 8\)\)"),
    "blocks of nothing": (by_block, FP8 | {"weight_block_size": [0, 8]}, "which are no rows and columns"),
    "nothing quantised": (lambda w: {"weight": w}, FP8, "is quantised by fp8, and none of its weights is stored so"),
    "a scale too much": (lambda w: {"weight": w, "weight_scale": torch.ones(1)}, FP8, "stored as F32 with 1 scale"),
    "rows for some GPU": (
        lambda w: of_llm_int8(w) | {"weight_format": torch.tensor(2, dtype=torch.uint8)},
        INT8,
        "lie as some processor wants them",
    ),
}


@pytest.mark.parametrize("kind", NOT_READ)
def test_small_numbers_that_are_not_read_are_refused_in_a_line(single, kind):
    store, said, line = NOT_READ[kind]
    pack(single, store, said)
    refused(single, line)


def test_mlxs_word_for_it_is_the_same_word(single):
    change(single / "config.json", quantization={"bits": 4, "group_size": 64})
    refused(single, "is quantised by None; read are")


@pytest.mark.parametrize("nothing", [None, {}])
def test_a_method_of_nothing_is_none(single, llama, nothing):
    change(single / "config.json", quantization_config=nothing)
    is_the_same(single, llama)


@pytest.mark.parametrize("key", ["model_type", "num_hidden_layers", "quantization_config"])
@pytest.mark.parametrize("value", [None, [], [1], {}, {"a": 1}, True, "x", 1.5])
def test_values_of_other_kinds_are_refused_in_a_line_or_mean_nothing(single, llama, key, value):
    change(single / "config.json", **{key: value})
    if key == "quantization_config" and not value:
        is_the_same(single, llama)
    else:
        refused(single, "holds the architecture|does not say num_hidden_layers|is quantised by")
