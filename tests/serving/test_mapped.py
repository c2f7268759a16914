"""A model served from its file's own blocks answers as the dequantised model does, and keeps nothing in memory."""

from dataclasses import replace

import gguf
import pytest
import torch
from damage import Reader, damaged, gguf_parts, try_damaged_files
from gguf import GGMLQuantizationType as Type

from llmhw_helpers.llm.checkpoints import find_model, load_model
from llmhw_helpers.llm.gguf_file import stored_tensors
from llmhw_helpers.llm.model_files import BadModelFile
from llmhw_helpers.llm.transformer import NotThisFamily, TokenError
from llmhw_helpers.serving.compiled.decoder import NoDecoder
from llmhw_helpers.serving.decoding import decode, decoder_of, generate, new_cache, prefill
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.weights import Served

pytest.importorskip("numba")
from llmhw_helpers.serving.mapped import ServedFile

PROMPTS = [[*range(3, 43)], [7, 8]]  # many rows, and few


def woven(rows, head_dim):
    """Pairs that rotate together side by side, as a file has them."""
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def write(path, model, kind):
    """The model as a GGUF file, its matrices in format `kind`."""
    spec, writer = model.spec, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(spec.n_layers)
    writer.add_context_length(spec.context_length)
    writer.add_embedding_length(spec.d_model)
    writer.add_feed_forward_length(spec.d_ff)
    writer.add_head_count(spec.n_heads)
    writer.add_head_count_kv(spec.n_kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    for name, weight in model.state_dict().items():
        weight = woven(weight, spec.head_dim) if "attn_q" in name or "attn_k" in name else weight
        to = Type[kind] if weight.dim() == 2 else Type.F32
        writer.add_tensor(name, gguf.quantize(weight.contiguous().numpy(), to), raw_dtype=to)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model(tiny_spec, random_model):
    """With biases and a head of its own."""
    changes = {"qkv_bias": True, "o_bias": True, "mlp_bias": True, "tied_embeddings": False, "context_length": 128}
    return random_model(replace(tiny_spec, d_model=64, head_dim=16, d_ff=96, **changes))


def logits(served):
    """Of a prompt of each text and three steps more."""
    cache = new_cache(served, 2, 50)
    found = [prefill(served, PROMPTS, cache)]
    found += [decode(served, torch.tensor([i, 9]), cache) for i in range(3)]
    return torch.stack(found), cache.keys


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "F32", "F16", "BF16"])
def test_logits_and_cache_are_the_dequantised_models(tmp_path, model, kind):
    path = write(tmp_path / "small.gguf", model, kind)
    served = ServedFile(path)
    (found, keys), (expected, expected_keys) = logits(served), logits(Served(load_model(path), compiled=False))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    torch.testing.assert_close(keys, expected_keys, rtol=0, atol=1e-5 * expected_keys.abs().max().item())
    assert decoder_of(served) is not None
    assert served.nbytes == sum(tensor.n_bytes for tensor in gguf.GGUFReader(path).tensors)


def test_the_real_file_writes_the_same_text_and_nothing_of_it_is_copied():
    served, prompt = ServedFile(), list(range(500, 540))
    assert list(generate(served, prompt, 12)) == list(generate(Served(load_model(), compiled=False), prompt, 12))
    assert 96e6 < served.nbytes < find_model().stat().st_size
    own = sum(parameter.nbytes for parameter in served.model.parameters() if not parameter.is_meta)
    table = served.model.token_embd.weight  # one number that stands for all
    assert table.untyped_storage().nbytes() == 4
    assert own - table.nbytes < 200e3
    data = served.matrices[-1].parts[0].kept[0]
    assert data.base is not None
    assert data.ctypes.data == served.matrices[-1].parts[0].row[4]


def test_an_engine_serves_it(tmp_path, model):
    path = write(tmp_path / "small.gguf", model, "Q8_0")
    engines = [Engine(served, 60, 4, max_batch_size=2) for served in (ServedFile(path), Served(load_model(path)))]
    assert engines[0].generate(PROMPTS, 6) == engines[1].generate(PROMPTS, 6)


def test_a_format_that_is_not_read_is_named(tmp_path, model):
    path = write(tmp_path / "small.gguf", model, "Q4_0")
    assert {each.kind for each in stored_tensors(path).values()} == {"Q4_0", "F32"}
    with pytest.raises(NoDecoder, match=r"small.gguf: a matrix of \(64, 64\) is Q4_0 in the file"):
        ServedFile(path)


def test_a_token_that_is_none_is_refused(tmp_path, model):
    served = ServedFile(write(tmp_path / "small.gguf", model, "Q4_1"))
    for wrong in (-1, 50):
        with pytest.raises(TokenError, match=f"token {wrong} is none of"):
            served.model.embed(torch.tensor([[wrong]]))


def served_one_step(folder):
    served = ServedFile(folder / "model.gguf")
    cache = new_cache(served, 1, 8)
    assert prefill(served, [[3, 7]], cache).shape == decode(served, torch.tensor([2]), cache).shape


@pytest.mark.parametrize("kind", ["small", "Q4_1", "Q8_0"])
def test_a_damaged_file_is_served_or_refused_in_one_short_line(tmp_path, model, kind):
    """Its machine code reads where the file says: nowhere else, whatever that is. In blocks, its bytes are damaged."""

    def make(folder):
        if kind == "small":
            (folder / "model.gguf").write_bytes(gguf_parts().content())
        else:
            write(folder / "model.gguf", model, kind)

    spoil = None if kind == "small" else lambda name, content, rng: damaged(content[:4096], rng) + content[4096:]
    errors = (BadModelFile, NotThisFamily, NoDecoder)
    reader = Reader(make, served_one_step, errors, ("model.gguf",), 100 if kind == "small" else 40, spoil)
    make(tmp_path)
    served_one_step(tmp_path)  # what is compiled now is not the damaged file's
    try_damaged_files(f"served {kind}", reader, tmp_path)
