"""The GGUF file: real, small ones written here as llama.cpp's converter writes them, and broken in every way."""

import gguf
import numpy as np
import pytest
import torch

from llmhw_helpers.llm.checkpoints import BadModelFile, find_model, load_model, open_checkpoint

N_LAYERS, HEAD_DIM = 3, 8
SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def llama_cpp_rows(weight: torch.Tensor) -> torch.Tensor:
    """What llama.cpp's converter does to the queries' and keys' rows (``LlamaModel.permute``)."""
    n_heads = len(weight) // HEAD_DIM
    return weight.reshape(n_heads, 2, HEAD_DIM // 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def write(path, llama, kind=gguf.GGMLQuantizationType.F32, arch="llama", without=(), shapes=None, factors=None):
    """A small Llama of transformers as a GGUF file."""
    config, names = llama.config, gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, N_LAYERS)
    writer = gguf.GGUFWriter(path, arch)
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
    writer.add_token_list([b"ab", b"c" * 300, "\N{SNOWMAN}".encode()])
    writer.add_token_types([1, 1, 3])
    for theirs, weight in llama.state_dict().items():
        ours = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        if ours in without:
            continue
        if "attn_q" in ours or "attn_k" in ours:
            weight = llama_cpp_rows(weight)
        weight = weight[: shapes[ours]] if shapes and ours in shapes else weight
        stored = kind if weight.dim() == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(ours, gguf.quants.quantize(weight.numpy(), stored), raw_dtype=stored)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
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


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_every_type_of_tensor_is_what_the_gguf_library_dequantises(tmp_path, small_llama, kind):
    kind = gguf.GGMLQuantizationType[kind]
    llama = small_llama(hidden_size=64, intermediate_size=96, num_attention_heads=8)
    opened = open_checkpoint(write(tmp_path / "small.gguf", llama, kind))
    weight = llama.model.layers[1].mlp.up_proj.weight.detach().numpy()
    oracle = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
    assert np.array_equal(opened.tensor("blk.1.ffn_up.weight").numpy(), oracle)


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


def test_a_head_that_does_not_fit_the_vocabulary_is_refused(tmp_path, small_llama):
    path = write(tmp_path / "small.gguf", small_llama(), shapes={"output.weight": 90})
    with pytest.raises(BadModelFile, match=r"output\.weight is \(90, 32\), and its architecture says \(96, 32\)"):
        load_model(path)


@pytest.mark.parametrize("missing", ["block_count", "embedding_length", "head_count", "context_length"])
def test_an_incomplete_description_is_refused(tmp_path, small_llama, missing):
    path = write(tmp_path / "small.gguf", small_llama(), without=[missing])
    with pytest.raises(BadModelFile, match="does not describe its model: config: '.*' is missing"):
        load_model(path)


def test_another_architecture_is_refused(tmp_path, small_llama):
    with pytest.raises(BadModelFile, match="holds the architecture 'mamba'; the course reads llama"):
        load_model(write(tmp_path / "small.gguf", small_llama(), arch="mamba"))
