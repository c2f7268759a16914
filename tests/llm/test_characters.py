"""Text as it comes against the same text whole, by the tokenizers library: equal to the letter."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.llm.tokenizer import BadText, Tokenizer

KINDS = ["Llama 2", "Llama 2, new", "each word", "no first space", "Unigram", "Llama 3", "words"]


def tokenizer_of(library) -> Tokenizer:
    return Tokenizer(library, library.token_to_id("<|end|>"), None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", [True, False])
def test_any_tokens_come_as_the_library_says_them_whole(vocabularies, kind, special):
    library = vocabularies[kind]
    ours, rng = tokenizer_of(library), random.Random(0)
    odd = [token for token in range(ours.vocab_size) if not 0xC0 <= token < 0x100 and token > 200] + [0]
    for _ in range(300):
        tokens = rng.choices(rng.choice([range(ours.vocab_size), odd]), k=rng.randint(0, 9))
        whole = library.decode(tokens, skip_special_tokens=not special)
        assert ours.decode(tokens, special) == whole
        assert "".join(ours.stream(tokens, special)) == whole, [library.id_to_token(token) for token in tokens]


@given(st.lists(st.integers(0, 1023), max_size=12), st.sampled_from(KINDS))
def test_whatever_a_model_may_draw_comes_whole(vocabularies, draws, kind):
    library = vocabularies[kind]
    ours = tokenizer_of(library)
    tokens = [draw % ours.vocab_size for draw in draws]
    assert "".join(ours.stream(tokens)) == library.decode(tokens, skip_special_tokens=False)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_no_piece_shows_half_a_character_and_spaces_stay(vocabularies, kind):
    library = vocabularies[kind]
    ours = tokenizer_of(library)
    text = "hello hello  h\N{LATIN SMALL LETTER E WITH ACUTE}, \N{OK HAND SIGN}hello.<think> hello"
    tokens = library.encode(text, add_special_tokens=False).ids
    pieces = list(ours.stream(iter(tokens)))
    assert "".join(pieces) == library.decode(tokens)
    assert 5 < len(pieces) < len(tokens)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_a_long_text_asks_for_a_few_tokens_each_time(vocabularies, monkeypatch):
    """So that the time grows with the length of the text, and not with its square."""
    library = vocabularies["Llama 2"]
    ours, asked = tokenizer_of(library), []

    class Counting:
        decoder, id_to_token = library.decoder, library.id_to_token

        def decode(self, tokens, skip_special_tokens):
            asked.append(len(tokens))
            return library.decode(tokens, skip_special_tokens=skip_special_tokens)

    tokens = library.encode("hello  \N{OK HAND SIGN} hello.       " * 200, add_special_tokens=False).ids
    characters = ours.characters()
    monkeypatch.setattr(characters, "_library", Counting())
    text = "".join(map(characters.push, tokens)) + characters.close()
    assert text == library.decode(tokens)
    assert max(asked) <= 8  # an emoji of four bytes, its neighbours
    assert sum(asked) < 8 * len(tokens)


def test_pieces_of_every_kind_are_read_as_they_stand_in_a_text(vocabularies):
    read = {kind: tokenizer_of(library) for kind, library in vocabularies.items()}
    named = {kind: lambda text, ours=ours: ours.piece(ours.library.token_to_id(text)) for kind, ours in read.items()}
    assert named["Llama 2"]("\u2581hello") == named["each word"]("\u2581hello") == " hello"
    assert named["Llama 2"]("<0xC3>") == named["Llama 3"]("\xc3") == r"\xc3"
    assert named["Llama 2"]("\N{REPLACEMENT CHARACTER}") == "\N{REPLACEMENT CHARACTER}"
    assert named["words"]("##lo") == "lo"


def test_a_number_that_is_no_token_is_refused_as_it_comes(vocabularies):
    characters = tokenizer_of(vocabularies["Llama 2"]).characters()
    with pytest.raises(BadText, match="token 5000 is none of this vocabulary's"):
        characters.push(5000)
