"""A guess changes how many steps an answer takes, and never the answer."""

import pytest
import torch

from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.llm.tokenizer import load_tokenizer
from llmhw_helpers.llm.transformer import TokenError
from llmhw_helpers.serving.decoding import decode, generate, new_cache, prefill
from llmhw_helpers.serving.speculation import agreed, draft, generate_speculatively, verify
from llmhw_helpers.serving.weights import Served

PROMPT = [3, 1, 4, 1, 5]


def by_hand(tokens, n, longest):
    """The same guess from strings: where the end stands for the last time before the end."""
    letters = "".join(map(chr, tokens))
    for size in range(min(longest, len(letters) - 1), 0, -1):
        start = letters[:-1].rfind(letters[-size:])
        if start >= 0:
            follows = letters[start + size :]
            return [ord(letter) for letter in (follows * n)[:n]]
    return []


def test_a_guess_is_what_followed_last_time():
    generator = torch.Generator().manual_seed(0)
    for n_tokens in range(1, 40):
        tokens = torch.randint(65, 69, (n_tokens,), generator=generator).tolist()
        for n in (0, 1, 4, 9):
            for longest in (1, 2, 3, 50):
                assert draft(tokens, n, longest) == by_hand(tokens, n, longest), (tokens, n, longest)


@pytest.mark.parametrize(
    ("tokens", "n", "longest", "guess"),
    [
        ([1, 2, 9, 1, 2, 8, 1, 2], 1, 3, [8]),  # the latest
        ([1, 2, 3, 9, 7, 3, 8, 2, 3], 1, 3, [9]),  # the longest before the latest
        ([1, 2, 3, 9, 7, 3, 8, 2, 3], 1, 1, [8]),
        ([4, 4], 3, 3, [4, 4, 4]),
        ([], 3, 3, []),
        ([4], 3, 3, []),
    ],
)
def test_of_several_places_the_longest_counts_and_then_the_latest(tokens, n, longest, guess):
    assert draft(tokens, n, longest) == guess


@pytest.mark.parametrize(
    ("guess", "said", "kept"),
    [
        ([], [5], [5]),
        ([5], [5, 6], [5, 6]),
        ([5, 6], [4, 6, 7], [4]),  # right again behind the first mistake: read after another text
        ([5, 6, 7], [5, 0, 7, 8], [5, 0]),
    ],
)
def test_of_a_guess_stays_what_is_right_from_its_start(guess, said, kept):
    assert agreed(guess, said) == kept


@pytest.mark.parametrize("n_draft", [0, 1, 4, 30])
@pytest.mark.parametrize(("n_new", "given"), [(0, 0), (1, 1), (2, 2), (25, 25), (500, 59)])
def test_the_answer_is_that_of_plain_decoding(tiny, n_draft, n_new, given):
    served = Served(tiny)
    found = generate_speculatively(served, PROMPT, n_new, n_draft=n_draft)
    assert list(found.tokens) == list(generate(served, PROMPT, n_new))
    assert len(found.tokens) == given
    assert found.n_accepted <= found.n_drafted <= n_draft * found.n_steps
    assert len(found.tokens) == (0 if given == 0 else 1 + found.n_steps + found.n_accepted)  # each step gives one more
    assert found.tokens_per_step == pytest.approx((given - 1) / found.n_steps if found.n_steps else 1)


def test_a_text_that_goes_round_takes_fewer_steps(tiny):
    served = Served(tiny)
    answer = list(generate(served, PROMPT, 59))
    found = generate_speculatively(served, [*PROMPT, *answer[:40]], 19)
    assert list(found.tokens) == answer[40:]
    steps, text = 0, [*PROMPT, *answer[:41]]  # with the answer known: how far each guess is right
    while len(text) < 64:
        guess, follows = draft(text, min(4, 63 - len(text))), [*PROMPT, *answer][len(text) :]
        n = next((i for i, token in enumerate(guess) if token != follows[i]), len(guess))
        text, steps = [*text, *follows[: n + 1]], steps + 1
    assert found.n_steps == steps


def test_each_step_is_one_pass_through_the_model(tiny):
    counts = []
    tiny.token_embd.register_forward_hook(lambda module, inputs, output: counts.append(output.shape[1]))
    found = generate_speculatively(Served(tiny), PROMPT, 30, n_draft=3)
    assert counts[0] == len(PROMPT)
    assert len(counts) == 1 + found.n_steps
    assert sum(counts[1:]) == found.n_steps + found.n_drafted


def test_it_ends_at_a_stop_token_wherever_a_step_gives_it(tiny):
    served = Served(tiny)
    free = list(generate(served, PROMPT, 40))
    for token in {free[0], free[1], free[7], free[-1]}:
        found = generate_speculatively(served, PROMPT, 40, stop={token})
        assert list(found.tokens) == free[: free.index(token)]


def test_the_logits_of_a_guess_are_those_of_one_token_at_a_time(tiny):
    served = Served(tiny)
    one, several = new_cache(served, 1, 12), new_cache(served, 1, 12)
    for cache in (one, several):
        prefill(served, [PROMPT], cache)
    expected = torch.cat([decode(served, torch.tensor([token]), one) for token in (7, 8, 9)])
    wrong = verify(served, [1, 2, 3, 4], several)  # not counted, and overwritten by what comes next
    assert several.lengths == [5]
    torch.testing.assert_close(verify(served, [7, 8, 9], several), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(wrong[:3], expected, atol=1e-2)
    several.advance(3)
    for a, b in zip(one.tensors(), several.tensors(), strict=True):
        torch.testing.assert_close(a[..., :8, :], b[..., :8, :], atol=1e-5, rtol=1e-5)


def test_what_a_model_repeats_takes_a_fraction_of_the_steps():
    """The real model, as the loops of the small one could be by chance."""
    served, tokenizer = Served(load_model(device="cpu")), load_tokenizer()
    week = "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday,"
    prompt = tokenizer.encode(f"{week} Monday, Tuesday, Wednesday, Thursday,")
    found = generate_speculatively(served, prompt, 21, tokenizer=tokenizer)
    assert list(found.tokens) == list(generate(served, prompt, 21, tokenizer=tokenizer))
    assert tokenizer.decode(found.tokens).startswith(" Friday, Saturday, Sunday, Monday,")
    assert found.n_steps == 4  # the first token is the prompt's; then five with each step
    assert found.n_accepted == found.n_drafted == 16


def test_what_cannot_be_done_is_refused_in_one_line(tiny):
    served = Served(tiny)
    for prompt, words in (([], "an empty prompt"), ([1] * 64, "64 tokens leaves no room"), ([1, 50], "token 50")):
        with pytest.raises(TokenError, match=words):
            generate_speculatively(served, prompt, 5)
    with pytest.raises(ValueError, match="-1 tokens from the last 3: at least 0 are guessed"):
        generate_speculatively(served, PROMPT, 5, n_draft=-1)
    with pytest.raises(ValueError, match="the last 0: .* at least 1 is looked for"):
        generate_speculatively(served, PROMPT, 5, longest=0)
    with pytest.raises(ValueError, match="in one text, not in 2 at once"):
        verify(served, [1], new_cache(served, 2, 8))
