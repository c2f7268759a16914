"""A tiny model whose logits differ enough to tell a mistake."""

import copy
from dataclasses import replace

import pytest
import torch
from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Library

from llmhw_helpers.llm.tokenizer import GPT2, BadText, Tokenizer
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.weights import Served
from llmhw_helpers.specs.models import model


@pytest.fixture(scope="session")
def tiny_spec():
    """Grouped queries, and every width its own."""
    return replace(
        model("SmolLM2-135M"),
        **{"n_layers": 3, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 48},
        **{"vocab_size": 50, "context_length": 64},
    )


@pytest.fixture
def tiny(tiny_spec):
    """Large weights, so that every token shows in the logits."""
    torch.manual_seed(0)
    network = Transformer(tiny_spec)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.dim() == 1))
    return network


@pytest.fixture(scope="session")
def letters():
    """A tokenizer with as many tokens as the tiny model: letters, digits, signs, the bytes of an é, and a chat's."""
    signs = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:?!'-", "Ġ", "Ċ", "Ã", "©"]  # as GPT-2 writes bytes
    special = ["<|im_start|>", "<|im_end|>", "<|x|>"]
    library = Library(models.BPE({token: i for i, token in enumerate(signs + special)}, []))
    library.pre_tokenizer = GPT2
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    turn = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    answer = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    template = "{% for message in messages %}" + turn + "{% endfor %}" + answer
    return Tokenizer(library, library.token_to_id("<|im_end|>"), template)


@pytest.fixture(scope="session")
def stumbling(letters):
    """Makes tokenizers that make text of letters, but not of one token, or not of what is left at the end."""

    def make(wrong=None, at_the_end=False):
        def characters(special=True):
            inside = letters.characters(special=special)
            push, close = inside.push, inside.close

            def stumble(token):
                if token == wrong:
                    raise BadText(f"no text for token {token}")
                return push(token)

            def stumble_at_the_end():
                if at_the_end:
                    raise BadText("no text for the rest")
                return close()

            inside.push, inside.close = stumble, stumble_at_the_end
            return inside

        tokenizer = copy.copy(letters)
        tokenizer.characters = characters
        return tokenizer

    return make


@pytest.fixture(scope="session")
def new_engine(tiny_spec, letters):
    """Makes engines that speak: the tiny model, with a longer context, and the letters."""
    torch.manual_seed(0)
    network = Transformer(replace(tiny_spec, context_length=512))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.dim() == 1))
    served = Served(network)
    return lambda n_blocks=256, block_size=4, **how: Engine(served, n_blocks, block_size, tokenizer=letters, **how)
