"""The GGUF file: real, small ones written here as llama.cpp's converter writes them, and broken in every way."""

import warnings

import gguf
import numpy as np
import pytest
import torch

from llmhw_helpers.llm.checkpoints import BadModelFile, find_model, load_model, open_checkpoint

N_LAYERS, HEAD_DIM = 3, 8
LARGE = 2**31 - 2
ROPE_DIMENSIONS = "llama.rope.dimension_count"
SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def llama_cpp_rows(weight: torch.Tensor) -> torch.Tensor:
    """What llama.cpp's converter does to the queries' and keys' rows (``LlamaModel.permute``)."""
    n_heads = len(weight) // HEAD_DIM
    return weight.reshape(n_heads, 2, HEAD_DIM // 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def write(
    path,
    llama,
    kind=gguf.GGMLQuantizationType.F32,
    arch="llama",
    without=(),
    shapes=None,
    factors=None,
    says=None,
    more=(),
    big=False,
    vectors=None,
):
    """A small Llama of transformers as a GGUF file: without some keys or tensors, and with others."""
    config, names = llama.config, gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, N_LAYERS)
    writer = gguf.GGUFWriter(path, arch, endianess=gguf.GGUFEndian.BIG if big else gguf.GGUFEndian.LITTLE)
    numbers = {
        "block_count": N_LAYERS,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads,
        "layer_norm_rms_eps": config.rms_norm_eps,
        "rope_dimension_count": HEAD_DIM,
        "rope_freq_base": config.rope_parameters["rope_theta"],
    }
    for name, number in numbers.items():
        if name not in without:
            getattr(writer, f"add_{name}")(number)
    for key, value in (says or {}).items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    writer.add_token_list([b"ab", b"c" * 300, "\N{SNOWMAN}".encode()])
    writer.add_token_types([1, 1, 3])
    for theirs, weight in llama.state_dict().items():
        ours = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        if ours in without:
            continue
        if "attn_q" in ours or "attn_k" in ours:
            weight = llama_cpp_rows(weight)
        weight = weight[: shapes[ours]] if shapes and ours in shapes else weight
        stored = kind if weight.dim() == 2 else (vectors or {}).get(ours, gguf.GGMLQuantizationType.F32)
        writer.add_tensor(ours, gguf.quants.quantize(weight.numpy(), stored), raw_dtype=stored)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    for name in more:
        writer.add_tensor(name, np.ones(HEAD_DIM, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokens():
    return torch.randint(0, 96, (2, 100), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 4}, {"attention_bias": True, "mlp_bias": True}])
def test_a_gguf_file_gives_the_logits_of_the_model_that_it_was_made_from(tmp_path, small_llama, changes):
    llama = small_llama(**changes)
    ours = load_model(write(tmp_path / "small.gguf", llama))
    torch.testing.assert_close(ours(tokens()), llama(tokens()).logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_llama_3s_stretching_is_stored_as_factors(tmp_path, small_llama):
    llama = small_llama(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, **SCALING})
    plain = 1e4 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    factors = plain / llama.model.rotary_emb.inv_freq
    assert factors.max() > 7
    ours = load_model(write(tmp_path / "small.gguf", llama, factors=factors.tolist()))
    torch.testing.assert_close(ours(tokens()), llama(tokens()).logits, atol=1e-4, rtol=1e-4)


ORIGINAL = 32  # tokens of the context that a stretched one was first
LINEAR, FACTOR = {"llama.rope.scaling.type": "linear"}, {"llama.rope.scaling.factor": 4.0}
YARN = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.original_context_length": ORIGINAL} | FACTOR
STRETCHED = {
    "linear": (LINEAR | FACTOR, {"rope_type": "linear", "factor": 4.0}),
    "linear, the type unsaid": (FACTOR, {"rope_type": "linear", "factor": 4.0}),
    "linear, of 2023": ({"llama.rope.scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    "yarn": (YARN, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}),
    "yarn with bounds of its own": (
        YARN | {"llama.rope.scaling.yarn_beta_fast": 0.5, "llama.rope.scaling.yarn_beta_slow": 0.05},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
        | {"beta_fast": 0.5, "beta_slow": 0.05},
    ),
    "yarn, multiplied": (  # llama.cpp's factor comes on top of what yarn does by itself, transformers' instead of it
        YARN | {"llama.rope.scaling.attn_factor": 1.5},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
        | {"attention_factor": 1.5 * (1 + 0.1 * np.log(4.0))},
    ),
    "none": ({"llama.rope.scaling.type": "none"} | FACTOR, {"rope_type": "default"}),
    "a factor of 0": (LINEAR | {"llama.rope.scaling.factor": 0.0}, {"rope_type": "default"}),
}


@torch.inference_mode()
@pytest.mark.parametrize("how", STRETCHED)
def test_stretched_positions_equal_transformers(tmp_path, small_llama, how):
    says, rope = STRETCHED[how]
    llama = small_llama(rope_parameters={"rope_theta": 1e4, **rope})
    ours = load_model(write(tmp_path / "small.gguf", llama, says=says))
    torch.testing.assert_close(ours(tokens()), llama(tokens()).logits, atol=1e-4, rtol=1e-4)


REFUSED = {
    "llama.rope.scaling.type": "longrope",
    "llama.rope.scaling.attn_factor": 1.2,
    "llama.rope.scaling.factor": float("nan"),
    "llama.rope.scaling.yarn_log_multiplier": 0.1,
    "llama.rope.dimension_sections": [2, 2],
    "llama.rope.freq_base_swa": 1e6,
    "llama.expert_count": 8,
    "llama.expert_weights_scale": 2.5,
    "llama.attention.sliding_window": 64,
    "llama.attention.causal": False,
    "llama.attention.key_length": 7,
    "llama.attention.value_length": 16,
    "llama.attention.scale": 0.5,
    "llama.attention.head_gate": 1,
    "llama.logit_scale": 0.0625,
    "llama.embedding_scale": 12.0,
    "llama.final_logit_softcapping": 30.0,
    "llama.hidden_act": "gelu",
    "llama.swiglu_clamp_exp": [7.0],
    "llama.use_parallel_residual": True,
    "llama.tensor_data_layout": "reference",
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_would_be_computed_otherwise_is_refused_by_its_key(tmp_path, small_llama, key):
    path = write(tmp_path / "small.gguf", small_llama(), says={key: REFUSED[key]})
    with pytest.raises(
        BadModelFile, match=rf"{key.removeprefix('llama.')} = .*, which is (not computed here|no size)"
    ) as e:
        load_model(path)
    assert "\n" not in str(e.value)


def test_a_rotation_of_a_part_of_each_head_is_refused(tmp_path, small_llama):
    path = write(tmp_path / "a.gguf", small_llama(), without=["rope_dimension_count"], says={ROPE_DIMENSIONS: 4})
    with pytest.raises(BadModelFile, match=f"{ROPE_DIMENSIONS[6:]} = 4 in heads of {HEAD_DIM}, which is not computed"):
        load_model(path)


@torch.inference_mode()
def test_keys_that_ask_for_nothing_change_nothing_and_unknown_ones_are_named(tmp_path, small_llama):
    llama = small_llama()
    nothing = {"llama.expert_count": 0, "llama.logit_scale": 1.0, "llama.attention.causal": True}
    nothing |= {"llama.attention.key_length": HEAD_DIM, "llama.attention.value_length": HEAD_DIM}
    nothing |= {"llama.rope.scaling.finetuned": True, "somebody.quantized_by": "me", "llama.decoder_block_count": 3}
    path = write(tmp_path / "small.gguf", llama, says=nothing)
    said = "small.gguf: keys passed over, .*: llama.decoder_block_count, somebody.quantized_by"
    with pytest.warns(UserWarning, match=said):
        ours = load_model(path)
    torch.testing.assert_close(ours(tokens()), llama(tokens()).logits, atol=1e-4, rtol=1e-4)


def test_a_file_as_it_is_usual_warns_of_nothing(tmp_path, small_llama):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(write(tmp_path / "small.gguf", small_llama()))
        open_checkpoint()


@pytest.mark.parametrize(
    "name", ["blk.0.attn_q_norm.weight", "blk.1.ffn_gate_exps.weight", "blk.0.attn_q.scale", "blk.2.attn_output.bias"]
)
def test_a_tensor_that_has_no_place_is_refused(tmp_path, small_llama, name):
    path = write(tmp_path / "small.gguf", small_llama(), more=[name])
    with pytest.raises(BadModelFile, match=f"holds '{name}', for which its architecture has no place"):
        load_model(path)


def test_factors_that_are_no_heads_are_refused(tmp_path, small_llama):
    path = write(tmp_path / "small.gguf", small_llama(), factors=[1.0])
    with pytest.raises(BadModelFile, match=r"rope_freqs.weight is \(1,\), and not \(4,\)"):
        load_model(path)


def test_a_file_for_machines_with_the_highest_byte_first_is_refused(tmp_path, small_llama):
    path = write(tmp_path / "small.gguf", small_llama(), big=True)
    with pytest.raises(BadModelFile, match="is big-endian, .*: gguf-convert-endian .*small.gguf little"):
        open_checkpoint(path)


def test_a_part_of_a_split_model_says_where_the_others_are(tmp_path, small_llama):
    part = {"split.no": 1, "split.count": 3}
    path = write(tmp_path / "m-00002-of-00003.gguf", small_llama(), says=part)
    (tmp_path / "m-00001-of-00003.gguf").touch()
    missing = r"is part 2 of 3 of a split model; .* not in this folder: m-00003-of-00003\.gguf"
    with pytest.raises(BadModelFile, match=missing):
        load_model(path)
    (tmp_path / "m-00003-of-00003.gguf").touch()
    with pytest.raises(
        BadModelFile, match=r"in this folder; .*llama-gguf-split --merge m-00001-of-00003\.gguf m\.gguf"
    ):
        load_model(path)
    load_model(write(tmp_path / "whole.gguf", small_llama(), says={"split.count": 1}))


@pytest.mark.parametrize("part", [{"split.no": 0, "split.count": 2**31 - 1}, {"split.no": "one", "split.count": 2}])
def test_what_is_no_part_of_a_split_model_is_refused_at_once(tmp_path, small_llama, part):
    with pytest.raises(BadModelFile, match="is damaged: it says to be part .* of a split model"):
        load_model(write(tmp_path / "m.gguf", small_llama(), says=part))


def test_arrays_in_an_array_are_refused_when_asked_for(tmp_path, small_llama):
    opened = open_checkpoint(write(tmp_path / "small.gguf", small_llama(), says={"tokenizer.x": [["a"], ["b"]]}))
    with pytest.raises(BadModelFile, match="tokenizer.x holds arrays in an array"):
        opened.metadata["tokenizer.x"]


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_every_type_of_tensor_is_what_the_gguf_library_dequantises(tmp_path, small_llama, kind):
    kind = gguf.GGMLQuantizationType[kind]
    llama = small_llama(hidden_size=64, intermediate_size=96, num_attention_heads=8)
    opened = open_checkpoint(write(tmp_path / "small.gguf", llama, kind))
    weight = llama.model.layers[1].mlp.up_proj.weight.detach().numpy()
    oracle = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
    assert np.array_equal(opened.tensor("blk.1.ffn_up.weight").numpy(), oracle)


def test_vectors_are_read_in_every_type_too(tmp_path, small_llama):
    """Files have them in fp32; in others a number of a vector is two bytes of a row."""
    llama, kind = small_llama(), gguf.GGMLQuantizationType.BF16
    wanted = llama.model.norm.weight.data.copy_(torch.arange(32) / 8 + 1)
    path = write(tmp_path / "small.gguf", llama, vectors={"output_norm.weight": kind})
    assert torch.equal(open_checkpoint(path).tensor("output_norm.weight"), wanted)
    assert torch.equal(open_checkpoint(path).fill("output_norm.weight", torch.empty(5), 7), wanted[7:12])


def test_a_file_of_more_keys_or_tensors_than_it_has_room_for_is_refused(tmp_path, small_llama):
    path = write(tmp_path / "small.gguf", small_llama())
    content = path.read_bytes()
    for at in (8, 16):
        path.write_bytes(content[:at] + (3000).to_bytes(8, "little") + content[at + 8 :])
        with pytest.raises(BadModelFile, match=r"3000 .*; a file of its size has 2\d\d\d at most"):
            open_checkpoint(path)


def test_the_real_models_description_equals_the_librarys_reading():
    """Our reader walks over a vocabulary without an array for each string; the library's own is the oracle."""
    ours, oracle = open_checkpoint().metadata, gguf.GGUFReader(find_model()).fields
    assert list(ours) == list(oracle)
    assert len(ours) == len(oracle)
    for key, field in oracle.items():
        assert ours[key] == field.contents(), key
    assert len(ours["tokenizer.ggml.tokens"]) == 49152


def test_a_list_of_strings_and_numbers_of_our_own(tmp_path, small_llama):
    said = open_checkpoint(write(tmp_path / "small.gguf", small_llama())).metadata
    assert said["tokenizer.ggml.tokens"] == ["ab", "c" * 300, "\N{SNOWMAN}"]
    assert said["tokenizer.ggml.token_type"] == [1, 1, 3]


@pytest.mark.parametrize(
    ("text", "key"), [("\N{SNOWMAN}".encode(), "tokenizer.ggml.tokens"), (b"llama", "general.architecture")]
)
def test_text_in_the_file_that_is_no_utf_8_is_refused(tmp_path, small_llama, text, key):
    path = write(tmp_path / "small.gguf", small_llama())
    content = path.read_bytes()
    at = content.index(text, content.index(key.encode()) + len(key))
    path.write_bytes(content[:at] + b"\xff" * len(text) + content[at + len(text) :])
    with pytest.raises(BadModelFile, match=f"{key} holds text that is no valid UTF-8"):
        open_checkpoint(path).metadata[key]


@pytest.mark.parametrize("kept", [0.02, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_refused_before_anything_is_loaded(tmp_path, small_llama, kept):
    path = write(tmp_path / "small.gguf", small_llama())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(BadModelFile, match="is truncated or damaged.*copy or download it again"):
        load_model(path)


def test_a_type_of_tensor_that_nobody_knows(tmp_path, small_llama):
    path = write(tmp_path / "small.gguf", small_llama())
    name = b"blk.2.ffn_up.weight"
    content = bytearray(path.read_bytes())
    at = content.index(name) + len(name) + 4 + 2 * 8  # dimensions: their number, and two of them
    assert content[at : at + 4] == bytes(4)  # F32
    content[at : at + 4] = (999).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(BadModelFile, match="has a tensor of type 999, which the gguf library does not know"):
        load_model(path)


def test_a_type_of_tensor_that_is_known_and_no_weight(tmp_path, small_llama):
    path = write(tmp_path / "small.gguf", small_llama())
    name = b"blk.2.ffn_up.weight"
    content = bytearray(path.read_bytes())
    at = content.index(name) + len(name) + 4 + 2 * 8
    content[at : at + 4] = int(gguf.GGMLQuantizationType.I32).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(BadModelFile, match="blk.2.ffn_up.weight is I32, which the gguf library cannot dequantise"):
        load_model(path)


@pytest.mark.parametrize("name", ["blk.1.attn_k.weight", "output_norm.weight", "token_embd.weight"])
def test_a_missing_tensor_is_named(tmp_path, small_llama, name):
    path = write(tmp_path / "small.gguf", small_llama(), without=[name])
    expected = f"has no tensor '{name}'" if name != "token_embd.weight" else "'vocab_size' is missing"
    with pytest.raises(BadModelFile, match=expected) as error:
        load_model(path)
    assert "\n" not in str(error.value)


def test_a_tensor_of_another_size_is_named_with_both_shapes(tmp_path, small_llama):
    path = write(tmp_path / "small.gguf", small_llama(), shapes={"blk.1.ffn_gate.weight": 40})
    expected = r"blk\.1\.ffn_gate\.weight is \(40, 32\), and its architecture says \(80, 32\)"
    with pytest.raises(BadModelFile, match=expected):
        load_model(path)


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("block_count", "says 2147483646 layers, and has 30 tensors"),
        ("attention.key_length", r"blk\.2\.attn_q\.weight is \(32, 32\), and its architecture says"),
    ],
)
def test_a_lie_about_how_many_or_how_wide_costs_nothing(tmp_path, small_llama, key, line):
    without, says = ["block_count", "rope_dimension_count"], {"block_count": N_LAYERS} | {key: LARGE}
    says = {f"llama.{name}": value for name, value in says.items()}
    with pytest.raises(BadModelFile, match=line):
        load_model(write(tmp_path / "small.gguf", small_llama(), without=without, says=says))


def test_a_head_that_does_not_fit_the_vocabulary_is_refused(tmp_path, small_llama):
    path = write(tmp_path / "small.gguf", small_llama(), shapes={"output.weight": 90})
    with pytest.raises(BadModelFile, match=r"output\.weight is \(90, 32\), and its architecture says \(96, 32\)"):
        load_model(path)


@pytest.mark.parametrize(
    "missing", ["block_count", "embedding_length", "head_count", "context_length", "layer_norm_rms_eps"]
)
def test_an_incomplete_description_is_refused(tmp_path, small_llama, missing):
    path = write(tmp_path / "small.gguf", small_llama(), without=[missing])
    with pytest.raises(BadModelFile, match="does not describe its model: config: '.*' is missing"):
        load_model(path)


def test_another_architecture_is_refused(tmp_path, small_llama):
    with pytest.raises(BadModelFile, match="holds the architecture 'mamba'; the course reads llama"):
        load_model(write(tmp_path / "small.gguf", small_llama(), arch="mamba"))
