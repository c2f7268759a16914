"""Small Llamas of transformers, saved as its users save them, and small vocabularies: the oracles of our own."""

import pytest
import torch
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library
from transformers import LlamaConfig, LlamaForCausalLM

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="session")
def small_llama():
    """A function that makes one; its arguments change the configuration."""
    return make


def make(**changes) -> LlamaForCausalLM:
    """Random weights, large enough that every part shows in the logits; biases and norms away from 0 and 1."""
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**(SMALL | changes))).eval()
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1))
    return llama


@pytest.fixture(scope="session")
def vocabularies():
    """Small ones of each kind that Llamas have had, by name: how they make tokens, and text again."""
    spaces = (decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse())
    llama2 = (*spaces, decoders.Strip(" ", 1, 0))
    return {
        "Llama 2": sentencepiece(None, *llama2),
        "Llama 2, new": sentencepiece("first", *llama2),
        "each word": sentencepiece("always", decoders.ByteFallback(), decoders.Metaspace()),
        "no first space": sentencepiece("never", *spaces),
        "Unigram": sentencepiece("first", *llama2, unigram=True),
        "Llama 3": byte_level(),
        "words": words(),
    }


def sentencepiece(prepend: str | None, *back: decoders.Decoder, unigram: bool = False) -> Library:
    """Spaces written as letters, and bytes where a letter is not known."""
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581helowrd,.<s>/\N{LLAMA}"]
    pairs = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("\u2581", "hello"), ("\u2581", "\u2581")]
    vocabulary = list(dict.fromkeys([*vocabulary, *("".join(pair) for pair in pairs), "\N{REPLACEMENT CHARACTER}"]))
    if unigram:
        scored = [(text, 0.0 if text in ("<s>", "</s>") else -1.0) for text in vocabulary]
        library = Library(models.Unigram(scored, 0, True))
    else:
        numbers = {text: i for i, text in enumerate(vocabulary)}
        library = Library(models.BPE(numbers, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if prepend is None:
        library.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    library.decoder = decoders.Sequence(list(back))
    return with_added(library)


def byte_level() -> Library:
    """Each byte a letter; tokens of whole and of broken characters besides."""
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "\xc3\u0142", "\u0142\xc3", "\xc3\xa9x"]
    library = Library(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    library.normalizer = normalizers.NFC()
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return with_added(library)


def words() -> Library:
    """Words and their ends, as BERT's."""
    vocabulary = ["<unk>", "hello", "##lo", "a", "##b", ".", ",", "don", "##."]
    library = Library(models.WordPiece({text: i for i, text in enumerate(vocabulary)}, unk_token="<unk>"))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return with_added(library)


def with_added(library: Library) -> Library:
    """Tokens of a chat, and two that are added without being special."""
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<|user|>", "<|end|>"]
    library.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    library.add_special_tokens([AddedToken("<wide>", special=True, normalized=False, rstrip=True)])
    library.add_tokens([AddedToken("<think>", normalized=False), AddedToken("\N{LLAMA} ", normalized=False)])
    return library
