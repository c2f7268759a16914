"""Text from tokens: whole characters, nothing of a stop string, nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.llm.tokenizer import load_tokenizer
from llmhw_helpers.serving.request import AnswerFailed, Request, Writer

TOKENIZER = load_tokenizer()


def write(text, stops=()):
    """The pieces as they come, and the writer."""
    writer = Writer(TOKENIZER, stops)
    pieces = [writer.push(token) for token in TOKENIZER.encode(text)]
    return [*pieces, writer.close()], writer


@pytest.mark.parametrize("text", ["", "a", "naïve café", "🙂🙂 and 👩‍💻!", "数え切れない"])
def test_without_stop_strings_all_comes_in_whole_characters(text):
    pieces, writer = write(text)
    assert "".join(pieces) == writer.text == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_a_stop_string_ends_the_text_before_it_and_nothing_comes_after():
    pieces, writer = write("One, two, three, four", ["three", "four"])
    assert "".join(pieces) == writer.text == "One, two, "
    assert writer.stopped
    assert writer.push(TOKENIZER.encode("more")[0]) == writer.close() == ""
    assert writer.text == "One, two, "


def test_the_stop_string_that_is_complete_first_counts():
    assert write("abcdef", ["ef", "cdefg", "bc"])[1].text == "a"
    assert write("abb", ["b", "abb"])[1].text == "a"
    assert write("xabc", ["bc", "abc", "c"])[1].text == "x"


def test_a_beginning_that_becomes_no_stop_string_is_given_out_at_the_end():
    pieces, writer = write("wait: th", ["three"])
    assert writer.text == "wait: th"
    assert pieces[-1] == "th"
    assert not writer.stopped


letters = st.text(alphabet="ab", max_size=12)


@given(letters, st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3))
def test_the_text_is_all_before_the_first_stop_string_and_no_piece_says_too_much(text, stops):
    pieces, writer = write(text, stops)
    ends = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    expected = text[: sum(min(ends))] if ends else text
    assert writer.text == expected == "".join(pieces)
    assert writer.stopped == bool(ends)


def test_special_tokens_have_no_text_and_hide_no_stop_string():
    writer = Writer(TOKENIZER, ["bc"])
    control = TOKENIZER.encode("<|im_end|>", special=True) + TOKENIZER.encode("<|endoftext|>", special=True)
    assert len(control) == 2
    for token in [*control, *TOKENIZER.encode("ab"), control[0], *TOKENIZER.encode("cd")]:
        writer.push(token)
    writer.close()
    assert (writer.text, writer.stopped) == ("a", True)


def test_a_request_that_failed_says_its_first_reason():
    request = Request([1], 3, (0, 0))
    request.check()
    request.fail(KeyError("the first"))
    request.fail(KeyError("another"))
    assert (request.finished, request.error) == ("error", "KeyError: 'the first'")
    with pytest.raises(AnswerFailed, match="the first"):
        request.check()


def test_a_request_knows_what_it_wrote_and_when():
    request = Request([1, 2], 3, (0, 0))
    request.times = [1.0, 1.5]
    request.tokens += [7]
    assert (request.output, request.n_unread, request.time_to_first_token) == ([7], 3, 0.5)
    assert request.time_per_output_token != request.time_per_output_token  # NaN: there is no gap yet
    request.times += [1.6, 1.9]
    assert request.time_per_output_token == pytest.approx(0.2)
