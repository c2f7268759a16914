"""Keys of a GGUF file said as a config.json; the files themselves, against transformers, are in test_gguf_file."""

import re
from pathlib import Path

import gguf
import pytest

from llmhw_helpers.llm.gguf_keys import COMPUTES, KNOWN, PREFIX, config_of
from llmhw_helpers.llm.model_files import BadModelFile

SAID = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 128,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 80,
    "llama.attention.head_count": 4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def config(**said):
    said = {key.replace("__", "."): value for key, value in said.items()}
    return config_of(Path("m.gguf"), SAID | {PREFIX + key: value for key, value in said.items()}, {})


def test_a_plain_file_says_what_a_config_says():
    assert config() == {
        "_name_or_path": "llama",
        "model_type": "llama",
        "num_hidden_layers": 2,
        "max_position_embeddings": 128,
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
    }


def test_yarn_without_its_original_context_has_that_of_the_file_as_in_llama_cpp():
    scaling = config(rope__scaling__type="yarn", rope__scaling__factor=4.0)["rope_scaling"]
    assert scaling == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


def keys_of(room) -> set[str]:
    """All keys in a class of the gguf library's constants, and in the classes within."""
    found = set()
    for value in vars(room).values():
        if isinstance(value, type):
            found |= keys_of(value)
        elif isinstance(value, str) and value.startswith("{arch}."):
            found.add(value.removeprefix("{arch}."))
    return found


def test_the_librarys_keys_of_attention_positions_and_experts_are_known_or_refused():
    """What would only be named in a warning is of another kind: parts that no Llama has, or that its tensors show."""
    named = keys_of(gguf.Keys.LLM) | keys_of(gguf.Keys.Attention) | keys_of(gguf.Keys.Rope)
    assert len(named) > 80
    passed = {key for key in named if key not in KNOWN and not COMPUTES.search(key)}
    assert not [key for key in passed if re.search("attn|attention|rope|expert|scale|norm|logit|clamp", key)]
    for key in named - KNOWN - passed:
        with pytest.raises(BadModelFile, match=f"asks for {re.escape(key)} = 3, which is not computed here"):
            config_of(Path("m.gguf"), SAID | {PREFIX + key: 3}, {})


@pytest.mark.parametrize("value", ["4", None, [4.0], -1.0, float("inf")])
def test_a_factor_that_is_no_size_is_refused(value):
    with pytest.raises(BadModelFile, match="says rope.scaling.factor = .*, which is no size"):
        config(rope__scaling__factor=value)
