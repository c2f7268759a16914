"""Sizes of files: the real one to the byte, the published ones to their last digit; pages by counting."""

from dataclasses import replace

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.costs.files import RECIPES, bits_per_weight, block_of, model_bytes, pages, tensor_bytes, tensors
from llmhw_helpers.llm.checkpoints import find_model
from llmhw_helpers.specs.blocks import block
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.models import MODELS, model
from llmhw_helpers.specs.published_files import BITS_PER_WEIGHT, FILE_BYTES

PLAIN = [each for each in MODELS.values() if each.name.startswith(("Llama", "SmolLM2"))]
LLAMA_3_VOCABULARY = 7.8e6  # bytes of 128,256 tokens, their types and 280,147 merges: on top of the tensors


def test_the_real_file_tensor_by_tensor_and_to_the_byte():
    reader = gguf.GGUFReader(find_model())
    smol = model("SmolLM2-135M")
    theirs = {t.name.removesuffix(".weight"): t for t in reader.tensors}
    ours = dict(tensors(smol))
    assert set(ours) == set(theirs)
    for name, shape in ours.items():
        layout = block_of(smol, name, shape, "Q4_1")
        assert layout.name == theirs[name].tensor_type.name, name
        assert shape == tuple(reversed([int(n) for n in theirs[name].shape]))
        assert tensor_bytes(shape, layout) == theirs[name].n_bytes
    assert model_bytes(smol, "Q4_1") + reader.data_offset == find_model().stat().st_size


@pytest.mark.parametrize("each", PLAIN, ids=lambda each: each.name)
def test_the_tensors_hold_the_models_parameters(each):
    n = sum(tensor_bytes(shape, block("F32")) // 4 for name, shape in tensors(each) if name != "rope_freqs")
    assert n == each.n_params


@pytest.mark.parametrize("recipe", BITS_PER_WEIGHT["Llama-3.1-8B"])
def test_an_8b_has_the_published_bits_per_weight_to_the_last_digit(recipe):
    figure = BITS_PER_WEIGHT["Llama-3.1-8B"][recipe]
    assert bits_per_weight(model("Llama-3.1-8B"), recipe) == pytest.approx(figure.known(), abs=1e-4)


@pytest.mark.parametrize(("name", "recipe"), [(name, recipe) for name, sizes in FILE_BYTES.items() for recipe in sizes])
def test_published_files_are_as_large_as_predicted_to_their_last_digit(name, recipe):
    predicted = model_bytes(model(name), recipe) + LLAMA_3_VOCABULARY
    assert predicted == pytest.approx(FILE_BYTES[name][recipe].known(), abs=1e7)


def test_rows_that_are_no_whole_number_of_blocks_fall_back():
    smol = model("SmolLM2-135M")  # rows of 576: 18 blocks of 32, two and a quarter of 256
    names = {short: block_of(smol, f"blk.5.{short}", (576, 576), "Q4_K_M").name for short in ("attn_q", "attn_v")}
    assert names == {"attn_q": "Q5_0", "attn_v": "Q8_0" if 5 in (0, 1, 2, 5) else "Q5_0"}
    assert block_of(smol, "blk.5.ffn_down", (576, 1536), "Q4_K_M").name == "Q6_K"  # 1536 is six blocks
    assert block_of(smol, "blk.5.attn_q", (576, 100), "Q4_0").name == "F16"


def test_q4_k_s_gives_more_to_the_first_four_layers_values_and_to_an_eighth_of_the_last_matrices():
    small = model("Llama-3.2-1B")  # 16 layers
    chosen = [block_of(small, f"blk.{i}.attn_v", (512, 2048), "Q4_K_S").name for i in range(16)]
    assert chosen == ["Q5_K"] * 4 + ["Q4_K"] * 12
    chosen = [block_of(small, f"blk.{i}.ffn_down", (2048, 8192), "Q4_K_S").name for i in range(16)]
    assert chosen == ["Q5_K"] * 2 + ["Q4_K"] * 14


def test_2_bit_values_depend_on_how_many_heads_share_them():
    llama = model("Llama-3.1-8B")
    assert block_of(llama, "blk.9.attn_v", (1024, 4096), "Q2_K").name == "Q4_K"
    assert block_of(replace(llama, n_kv_heads=32), "blk.9.attn_v", (4096, 4096), "Q2_K").name == "Q3_K"


def test_every_recipe_is_a_layout_and_an_unknown_one_is_named():
    assert all(block(name) for types in RECIPES.values() for name in types.values())
    with pytest.raises(UnknownName, match="unknown recipe 'Q4_K_XL'; did you mean Q4_K_"):
        model_bytes(model("Llama-3.1-8B"), "Q4_K_XL")


def test_other_architectures_are_refused():
    with pytest.raises(ValueError, match="no list of tensors for Mixtral-8x7B, which has a mixture of experts"):
        model_bytes(model("Mixtral-8x7B"), "Q4_0")
    with pytest.raises(ValueError, match="a row of 100 weights is no whole number of Q4_0's 32"):
        tensor_bytes((3, 100), block("Q4_0"))


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 50))
def test_pages_are_those_that_hold_a_byte(offset, n_bytes, page_size):
    assert pages(offset, n_bytes, page_size) == len({at // page_size for at in range(offset, offset + n_bytes)})
