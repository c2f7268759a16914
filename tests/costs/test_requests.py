"""What may be asked, and what is refused in a line."""

import math

import pytest

from llmhw_helpers.costs.requests import read_request
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.models import model

PLAIN = {"model": "Llama-3.1-8B", "task": "serve", "where": "Alvis"}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "rope_theta": 500000.0,
}


def test_usual_values():
    asked = read_request(PLAIN | {"users": None})
    assert (asked.prompt, asked.answer, asked.users, asked.tokens_per_s, asked.utilisation) == (1000, 300, 8, 10, 0.9)
    assert [of.name for of in asked.formats][:2] == ["bf16", "fp16"]


def test_a_training_run_has_twenty_tokens_a_parameter():
    asked = read_request(PLAIN | {"task": "train"})
    assert asked.n_tokens == 20 * model("Llama-3.1-8B").n_params


@pytest.mark.parametrize("name", ["llama 3.1 8b", "meta-llama/Llama-3.1-8B", CONFIG, model("Llama-3.1-8B")])
def test_models_by_name_and_by_config(name):
    assert read_request(PLAIN | {"model": name}).model.n_params == 8_030_261_248


def test_what_is_read_and_not_known_is_noted():
    asked = read_request(PLAIN | {"model": CONFIG | {"unheard_of": 1}})
    assert "unheard_of" in asked.notes[0]


def test_a_field_in_another_case_counts():
    assert read_request(PLAIN | {"Users": 3}).users == 3


def test_a_model_has_a_name_of_one_line():
    """It stands in scripts: what came after a line's end would be run."""
    asked = read_request(PLAIN | {"model": CONFIG | {"_name_or_path": "mine\nrm -rf ~"}})
    assert asked.model.name == "mine rm -rf ~"


def test_that_a_file_is_of_quantised_weights_is_noted():
    asked = read_request(PLAIN | {"model": CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": 4}}})
    assert "quantised" in asked.notes[-1]


def test_rough_names_of_formats():
    asked = read_request(PLAIN | {"formats": ["int4", "bf16"]})
    assert [of.name for of in asked.formats] == ["AWQ int4", "GPTQ int4", "bf16"]
    assert asked.named


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": 3}, "unknown field of a request 'user'; did you mean users"),
        ({"users": 0}, "users is 0: a whole number from 1"),
        ({"users": 2.5}, "users is 2.5: a whole number"),
        ({"users": True}, "users is True"),
        ({"users": 10**400}, "users is 1000"),
        ({"users": 3, "Users": 4}, "users is said twice"),
        ({"prompt": "long"}, "prompt is 'long'"),
        ({"utilisation": math.nan}, "utilisation is nan"),
        ({"utilisation": 90}, "utilisation is 90: a number from 0.1 to 1"),
        ({"max_loss": -1}, "max_loss is -1"),
        ({"method": "lora"}, "method means nothing for the task 'serve'"),
        ({"task": "train", "users": 4}, "users means nothing for the task 'train'"),
        ({"task": "sing"}, "unknown task 'sing'"),
        ({"model": "Llama-9"}, "unknown model 'Llama-9'"),
        ({"model": {"model_type": "rnn"}}, "no formula for 'rnn'"),
        ({"model": 7}, "model is 7: a name"),
        ({"where": 7}, "where is 7"),
        ({"where": None}, "the request lacks where"),
        ({"formats": []}, "formats is \\[\\]"),
        ({"formats": ["int3"]}, "unknown flavour 'int3'"),
    ],
)
def test_refused_in_one_line(change, message):
    with pytest.raises((UnknownName, ValueError), match=message) as caught:
        read_request(PLAIN | change)
    assert "\n" not in str(caught.value)


def test_not_a_mapping():
    with pytest.raises(ValueError, match="a request is a mapping"):
        read_request(["serve"])
