"""The tokenizer against two others: a plain byte-level BPE written here, and transformers' reading of the same file."""

import pydoc_data.topics
import random
import sys
import threading
import time
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmhw_helpers.llm import checkpoints
from llmhw_helpers.llm import tokenizer as room
from llmhw_helpers.llm.checkpoints import BadModelFile, find_model, open_checkpoint
from llmhw_helpers.llm.tokenizer import BadText, Tokenizer, load_tokenizer

SAID = {key: open_checkpoint().metadata[key] for key in open_checkpoint().metadata}
TOKENS = SAID["tokenizer.ggml.tokens"]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
HAND_MADE = [
    "",
    " ",
    "Hello, world!",
    "it's they'll I'D we've",
    "1234567890 3.14159 2026-11-24 ½ ² Ⅷ ١٢٣ 12三",
    "  two   spaces\t\ttabs\n\n\nlines \r\n end  ",
    "déjà vu, naïve, Ångström, straße, ﬁ",
    "日本語のテキスト 中文 한국어 ไทย العربية עברית हिन्दी",
    "🙂🙃👩‍👩‍👧‍👦🇸🇪🦙 mixed🙂text",
    "e\u0301 vs \u00e9, zero\u200bwidth, nbsp\u00a0here, \ufeffbom",
    "def f(x):\n    return {'a': x ** 2}  # comment\n",
    "for (int i = 0; i < n; ++i) { sum += a[i]; }",
    "https://example.org/path?q=1&r=%20#frag",
    "<|im_start|>user\nignore this<|im_end|>",
    "<|endoftext|><|im_end|> <file_sep> <jupyter_code>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 5,
    "\x00\x01\t\x80\x85\u2028\U0003ffff",
]


@pytest.fixture(scope="module")
def real():
    return load_tokenizer()


@pytest.fixture(scope="module")
def strings():
    """Some thousands: every kind of character, alone and mixed, and stretches of documentation and of code."""
    rng = random.Random(0)
    assigned = [chr(i) for i in range(sys.maxunicode + 1) if unicodedata.category(chr(i)) not in ("Cs", "Cn", "Co")]
    ascii_mix = [chr(i) for i in range(32, 127)] + list("  \n\t''00")
    made = ["".join(rng.choices(assigned, k=rng.randint(1, 12))) for _ in range(1500)]
    made += ["".join(rng.choices(ascii_mix, k=rng.randint(1, 40))) for _ in range(1500)]
    made += ["".join(rng.choices([*ascii_mix, *rng.sample(assigned, 20)], k=20)) for _ in range(500)]
    made += [str(rng.getrandbits(rng.randint(1, 90))) for _ in range(300)]
    prose, code = "\n".join(pydoc_data.topics.topics.values()), Path(random.__file__).read_text(encoding="utf-8")
    for source in (prose, code):
        cuts = sorted(rng.sample(range(len(source)), 500))
        made += [source[a:b] for a, b in pairwise(cuts)]
    return HAND_MADE + made


class PlainBPE:
    """As GPT-2's report describes it, one merge after the other; nothing of the tokenizers library in it."""

    def __init__(self):
        merges = [tuple(merge.split(" ")) for merge in SAID["tokenizer.ggml.merges"]]
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.number = {token: i for i, token in enumerate(TOKENS)}
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in shown]
        self.letter = {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
        self.word = cache(self._word)

    def _word(self, word):
        parts = [self.letter[byte] for byte in word.encode() if self.letter[byte] in self.number]
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: self.rank.get(pair, 10**9))
            if best not in self.rank:
                break
            merged, i = [], 0
            while i < len(parts):
                two = tuple(parts[i : i + 2]) == best
                merged.append("".join(best) if two else parts[i])
                i += 1 + two
            parts = merged
        return [self.number[part] for part in parts]

    def encode(self, text):
        """llama.cpp's two expressions for "smollm": each number character by itself, then GPT-2's words."""
        pieces = [piece for piece in regex.split(r"(\p{N})", text) if piece]
        return [token for piece in pieces for word in regex.findall(GPT2, piece) for token in self.word(word)]


def test_thousands_of_strings_are_cut_as_a_plain_bpe_does(real, strings):
    plain = PlainBPE()
    assert len(strings) > 4000
    for text in strings:
        assert real.encode(text) == plain.encode(text), repr(text)


def test_thousands_of_strings_come_back(real, strings):
    whole = [text for text in strings if not lost() & set(text.encode())]
    assert len(whole) > 4000
    for text in whole:
        assert real.decode(real.encode(text)) == text
        assert "".join(real.stream(real.encode(text))) == text


@given(st.text())
def test_any_text_comes_back_and_is_cut_as_a_plain_bpe_does(text):
    real, plain = once()
    tokens = real.encode(text)
    assert tokens == plain.encode(text)
    if not lost() & set(text.encode()):
        assert real.decode(tokens) == text


@cache
def lost() -> set[int]:
    """Bytes that no token of this vocabulary can hold."""
    _, plain = once()
    return {byte for byte, letter in plain.letter.items() if letter not in plain.number}


@cache
def once():
    return load_tokenizer(), PlainBPE()


def test_transformers_reads_the_same_tokens_from_the_file(real, strings):
    """Its conversion knows GPT-2's words and not the file's digits, so digits are tried one at a time."""
    path = find_model()
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    checked = 0
    for text in strings:
        if not any(unicodedata.category(letter).startswith("N") for letter in text):
            assert real.encode(text, special=True) == theirs(text, add_special_tokens=False).input_ids, repr(text)
            checked += 1
    assert checked > 1500


def test_bytes_without_a_token_are_control_characters_or_begin_nothing_assigned(real):
    for byte in lost():
        assert byte < 0x20 or byte in (0xC0, 0xC1, 0xF1, 0xF2) or byte >= 0xF5
    assert len(lost()) < 30
    assert real.decode(real.encode("a\x16b")) == "ab"


def test_digits_are_read_one_at_a_time(real):
    assert [real.piece(token) for token in real.encode("in 2026")] == ["in", " ", "2", "0", "2", "6"]


def test_special_tokens_are_special_only_where_asked_for(real):
    assert real.encode("<|im_end|>", special=True) == [real.end] == [2]
    plain = real.encode("<|im_end|>")
    assert len(plain) > 1
    assert real.end not in plain
    assert real.decode(plain) == real.decode([real.end]) == "<|im_end|>"


def test_pieces_for_people(real):
    tokens = real.encode("\N{LLAMA}")
    assert len(tokens) == 3
    assert "".join(real.piece(token) for token in tokens) == r"\xf0\x9f\xa6\x99"
    assert real.piece(real.encode(" world")[0]) == " world"


def test_a_stream_never_shows_half_a_character(real):
    text = "a\N{LLAMA}b \u4e16\u754c"
    tokens = real.encode(text)
    pieces = list(real.stream(iter(tokens)))
    assert "".join(pieces) == text
    assert len(pieces) < len(tokens)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert "".join(real.stream(tokens[:2])).startswith("a\N{REPLACEMENT CHARACTER}")  # the end came first
    assert "".join(real.stream(real.encode("a\N{REPLACEMENT CHARACTER}b"))) == "a\N{REPLACEMENT CHARACTER}b"


def test_a_chat_is_written_as_transformers_writes_it(real):
    oracle = PreTrainedTokenizerFast(tokenizer_object=Library.from_str(real.library.to_str()))
    oracle.chat_template = SAID["tokenizer.chat_template"]
    for messages in (
        [{"role": "user", "content": "Hi"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\n"}],
        [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "{{3}}"}],
    ):
        for answer in (True, False):
            written = oracle.apply_chat_template(messages, add_generation_prompt=answer, tokenize=False)
            assert real.chat(messages, answer) == written
            assert real.chat_tokens(messages, answer) == oracle(written, add_special_tokens=False).input_ids


def test_blocks_on_lines_of_their_own_leave_no_lines(real):
    template = (
        "{%- for message in messages %}\n  {% if message.role %}\n{{ message.content }}\n  {% endif %}\n{% endfor %}"
    )
    ours = room.Tokenizer(real.library, real.end, template)
    oracle = PreTrainedTokenizerFast(tokenizer_object=Library.from_str(real.library.to_str()))
    oracle.chat_template = template
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    assert ours.chat(messages) == oracle.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_a_text_that_is_no_utf_8_is_refused(real):
    broken = b"caf\xe9".decode(errors="surrogateescape")
    with pytest.raises(BadText, match=r"no valid UTF-8: '\\udce9' at position 3"):
        real.encode(broken)
    with pytest.raises(BadText, match="no valid UTF-8"):
        real.encode(broken, special=True)


@pytest.mark.parametrize("token", [-1, 49152])
def test_a_number_that_is_no_token_is_refused(real, token):
    with pytest.raises(BadText, match=f"token {token} is none of this vocabulary's, which go from 0 to 49151"):
        real.decode([5, token])


def test_chats_that_cannot_be_written_are_refused(real):
    with pytest.raises(BadText, match="refuses these messages: .*undefined|refuses these messages: .*attribute"):
        real.chat([{"role": "user"}])
    without = room.Tokenizer(real.library, real.end, None)
    with pytest.raises(BadText, match="no chat template"):
        without.chat([{"role": "user", "content": "Hi"}])
    refusing = room.Tokenizer(real.library, real.end, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadText, match="refuses these messages: roles must alternate"):
        refusing.chat([])
    escaping = room.Tokenizer(real.library, real.end, "{{ messages.__class__.__mro__ }}")
    with pytest.raises(BadText, match="refuses these messages: access to attribute '__class__'"):
        escaping.chat([])


BROKEN = [
    ({"tokenizer.ggml.model": "llama"}, "the tokenizer is 'llama' with words as 'smollm'; known is 'gpt2' with smollm"),
    ({"tokenizer.ggml.pre": "tekken"}, "with words as 'tekken'"),
    ({"tokenizer.ggml.tokens": TOKENS[:-1]}, "49151 tokens, 49152 types"),
    ({"tokenizer.ggml.tokens": TOKENS[:-1], "tokenizer.ggml.token_type": [1] * 49151}, "merges do not fit its tokens"),
    ({"tokenizer.ggml.merges": []}, "49152 types, 0 merges"),
    ({"tokenizer.ggml.merges": ["zzqq qqzz"]}, "merges do not fit its tokens"),
    ({"tokenizer.ggml.eos_token_id": 99999}, r"ends with one \(99999\) that it does not list"),
    ({"tokenizer.ggml.tokens": [*TOKENS[:-1], TOKENS[-2]]}, "lists a token twice"),
]


def opened_with(monkeypatch, **changes):
    opened = open_checkpoint()
    fields = {"path": opened.path, "shapes": opened.shapes, "metadata": SAID} | changes
    fake = checkpoints.Checkpoint(**fields, _config=opened._config, _fill={})
    monkeypatch.setattr(room, "open_checkpoint", lambda path=None: fake)


@pytest.mark.parametrize(("change", "line"), BROKEN)
def test_tables_that_do_not_fit_are_refused_in_one_line(monkeypatch, change, line):
    opened_with(monkeypatch, metadata=SAID | change)
    with pytest.raises(BadModelFile, match=line) as error:
        load_tokenizer()
    assert "\n" not in str(error.value)


def test_a_vocabulary_that_does_not_fit_the_embedding_is_refused(monkeypatch):
    opened_with(monkeypatch, shapes={"token_embd.weight": (49000, 576)})
    with pytest.raises(BadModelFile, match="49152 tokens, and an embedding for 49000"):
        load_tokenizer()


def test_a_snapshot_brings_its_own_tokenizer(tmp_path, real, small_llama):
    small_llama(vocab_size=49160).save_pretrained(tmp_path)  # padded, as many are
    with pytest.raises(BadModelFile, match=r"no tokenizer\.json that can be read"):
        load_tokenizer(tmp_path)
    fast = PreTrainedTokenizerFast(tokenizer_object=Library.from_str(real.library.to_str()), eos_token="<|im_end|>")
    fast.chat_template = SAID["tokenizer.chat_template"]
    fast.save_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    messages = [{"role": "user", "content": "Hi 12"}]
    assert ours.chat_tokens(messages) == real.chat_tokens(messages)
    assert ours.end == real.end
    assert ours.encode("in 2026") == real.encode("in 2026")


def test_a_snapshot_with_more_tokens_than_rows_is_refused(tmp_path, real, small_llama):
    small_llama(vocab_size=96).save_pretrained(tmp_path)
    fast = PreTrainedTokenizerFast(tokenizer_object=Library.from_str(real.library.to_str()), eos_token="<|im_end|>")
    fast.save_pretrained(tmp_path)
    with pytest.raises(BadModelFile, match="49152 tokens, and an embedding for 96"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("way", ["encode", "prompt"])
def test_others_run_while_a_long_text_is_cut_into_tokens(real, way, monkeypatch):
    """A call that kept the interpreter to itself would let nobody else do anything until it ends."""
    text, ticks, calls, stop, cut = "1" * 300_000, [], [], threading.Event(), room._tokens

    def watched(*arguments, **options):
        calls.append(time.monotonic())
        tokens = cut(*arguments, **options)
        calls.append(time.monotonic())
        return tokens

    def tick():
        while not stop.wait(0.001):
            ticks.append(time.monotonic())

    monkeypatch.setattr(room, "_tokens", watched)
    other = threading.Thread(target=tick, daemon=True)
    other.start()
    getattr(real, way)(text)
    stop.set()
    other.join()
    assert len([each for each in ticks if calls[0] < each < calls[1]]) > 10


def test_a_file_whose_tokenizer_names_an_unknown_token_that_it_does_not_list_is_told_in_a_line():
    """The library notices only when a text has a letter that it does not know, and raises a plain Exception then."""
    tokenizer = Tokenizer(Library(models.BPE({"a": 0, "b": 1}, [], unk_token="<unk>")), end=1, template=None)
    assert tokenizer.encode("ab") == [0, 1]
    for cut in (tokenizer.encode, tokenizer.prompt):
        with pytest.raises(BadText, match="has no tokens for the text: Unk token `<unk>` not found"):
            cut("az")


def test_a_vocabulary_that_cannot_do_without_its_control_token_is_told_in_a_line():
    """Merged from pieces of which one has a prefix: the merge has no other name for what it makes."""
    merged = models.BPE({"a": 0, "##b": 1, "ab": 2}, [("a", "##b")], continuing_subword_prefix="##")
    library = Library(merged)
    library.add_special_tokens(["ab"])
    with pytest.raises(BadText, match="has no words without its control tokens: Token `ab` out"):
        Tokenizer(library, end=2, template=None).encode("ab")
