"""Every weight counts, and how it is multiplied; and the same model is the same again."""

import copy
from dataclasses import replace

import pytest
import torch

from llmhw_helpers.llm.lora import LoRALinear, add_lora, merge, remove_lora
from llmhw_helpers.llm.quantization import Scheme, quantize_model
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.serving.fingerprints import PIECE, fingerprint
from llmhw_helpers.serving.offload import Offloaded, write_layers
from llmhw_helpers.serving.quantized import serve
from llmhw_helpers.serving.weights import Served


def of(model):
    return fingerprint(Served(copy.deepcopy(model)))


def test_the_same_weights_are_the_same_model_in_any_memory(tiny):
    assert of(tiny) == of(tiny)
    assert fingerprint(Served(copy.deepcopy(tiny), packed=True)) == of(tiny)


def test_any_single_weight_counts(tiny):
    served = Served(tiny)
    first = fingerprint(served)
    assert max(parameter.nbytes for parameter in tiny.parameters()) > 2 * PIECE
    for name, parameter in tiny.named_parameters():
        flat = parameter.data.view(-1)
        for i in {0, len(flat) // 2, len(flat) - 1}:
            before = flat[i].item()
            flat[i] = torch.nextafter(flat[i], torch.tensor(9.0))  # the last bit
            assert fingerprint(served) != first, (name, i)
            flat[i] = before
            assert fingerprint(served) == first


def test_rows_that_change_places_and_weights_that_change_names_count(tiny):
    first = of(tiny)
    tiny.token_embd.weight.data = tiny.token_embd.weight.data.flip(0)
    flipped = of(tiny)
    tiny.blk[0], tiny.blk[1] = tiny.blk[1], tiny.blk[0]
    assert len({first, flipped, of(tiny)}) == 3


def test_an_adapter_that_is_merged_counts(tiny):
    first = of(tiny)
    add_lora(tiny, 2, 4)
    for layer in tiny.modules():
        if isinstance(layer, LoRALinear):
            torch.nn.init.normal_(layer.B, std=1e-3)
    merge(tiny)
    remove_lora(tiny)
    assert of(tiny) != first


def test_formats_and_ways_to_multiply_count(tiny):
    rounded = {bits: quantize_model(tiny, Scheme(bits, "row")) for bits in (8, 4)}
    all_of_them = [of(tiny), *(of(each) for each in rounded.values()), of(copy.deepcopy(tiny).bfloat16())]
    all_of_them += [
        fingerprint(serve(rounded[8])),
        fingerprint(serve(rounded[8], 8)),
        fingerprint(serve(rounded[8], 16)),
    ]
    assert len(set(all_of_them)) == len(all_of_them)


def test_what_the_architecture_says_counts(tiny, tiny_spec):
    other = Transformer(replace(tiny_spec, rope_theta=2 * tiny_spec.rope_theta))
    other.load_state_dict(tiny.state_dict())
    assert of(other) != of(tiny)
    other.spec = tiny.spec
    assert of(other) != of(tiny)  # even if only the angles tell
    other.frequencies = tiny.frequencies
    assert of(other) == of(tiny)


def test_layers_that_are_streamed_count_as_well(tiny, tmp_path):
    write_layers(tiny, tmp_path / "one")
    tiny.blk[2].ffn_down.weight.data[1, 1] += 1
    write_layers(tiny, tmp_path / "two")
    seen = []
    for name in ("one", "two", "one"):
        served = Offloaded(tiny.spec, tmp_path / name, 4 * tiny.spec.n_params - 1)
        assert served.parts.n_resident == 0
        seen.append(fingerprint(served))
        served.close()
    assert seen[0] == seen[2] != seen[1]


def test_a_model_that_does_not_give_out_its_weights_is_an_error(tiny):
    class Silent(Served):
        tensors = property()

    with pytest.raises(AttributeError, match="tensors"):
        fingerprint(Silent(tiny))
