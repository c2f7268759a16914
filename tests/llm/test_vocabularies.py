"""Tokenizers from files: the same tokens as transformers and llama.cpp make of them, or one line."""

import json
import random
from pathlib import Path

import pytest
import regex
from tokenizers import Tokenizer as Library
from tokenizers import models, processors
from transformers import AutoTokenizer

from llmhw_helpers.llm import checkpoints
from llmhw_helpers.llm import tokenizer as room
from llmhw_helpers.llm.checkpoints import BadModelFile, open_checkpoint
from llmhw_helpers.llm.tokenizer import load_tokenizer

TEXTS = [
    "hello",
    "",
    " hello  hello",
    "a<|end|> b<think>c <|user|> <pad>",
    "<new> <late><x>",
    "e\u0301 \N{LLAMA} hello " * 4,
]
HI = [{"role": "user", "content": "h\u00e9 <b>"}]
NAMES = (
    "{% for name in ['bos', 'eos', 'unk', 'pad', 'image'] %}{% endfor %}{{ bos_token }}{{ eos_token }}{{ pad_token }}|"
)
TEMPLATE = (
    NAMES + "{{ unk_token is defined }}{{ image_token }}{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
)
TOKEN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
# What stands beside a tokenizer.json, or in it: fields of tokenizer_config.json, and other files.
BESIDE = {
    "as it is": {},
    "BOS that the config does not want": {"add_bos_token": False},
    "EOS that it wants": {"add_eos_token": True},
    "a token of its own": {"pad_token": "<pad>"},
    "one with flags": {"pad_token": TOKEN | {"__type": "AddedToken", "content": "<pad>", "lstrip": True}},
    "an old token under a name": {"pad_token": "<think>", "unk_token": "<unk>"},
    "special tokens without names": {"additional_special_tokens": ["<x>", "<think>"]},
    "and with": {"extra_special_tokens": {"image_token": "<x>"}},
    "a table of added tokens": {
        "added_tokens_decoder": {"400": TOKEN | {"content": "<new>"}, "281": TOKEN | {"content": "<think>"}}
    },
    "an older table": {"special_tokens_map.json": {"pad_token": TOKEN | {"content": "<pad>"}, "eos_token": "<|user|>"}},
    "an even older one": {"added_tokens.json": {"<late>": 401, "<new>": 400}},
    "what changes nothing": {"model_max_length": 3, "add_prefix_space": True, "clean_up_tokenization_spaces": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_llama):
    """A function that saves a vocabulary as a snapshot, with what is to stand beside it."""
    path = tmp_path_factory.mktemp("snapshot")
    small_llama(vocab_size=320).save_pretrained(path)

    def save(library: Library, ends: object = None, **beside) -> Path:
        for old in ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "generation_config.json"):
            (path / old).unlink(missing_ok=True)
        for old in (path / "additional_chat_templates").glob("*"):
            old.unlink()
        said = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
        said |= {"chat_template": TEMPLATE} | {key: value for key, value in beside.items() if "." not in key}
        library.save(str(path / "tokenizer.json"))
        beside = {"generation_config.json": {"eos_token_id": ends}, "tokenizer_config.json": said} | beside
        for name, content in beside.items():
            (path / name).parent.mkdir(exist_ok=True)
            if "." in name:
                (path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return save


def with_bos(library: Library) -> Library:
    mine = Library.from_str(library.to_str())
    bos = [("<s>", mine.token_to_id("<s>"))]
    mine.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", bos)
    return mine


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("kind", ["Llama 2", "Llama 3"])
def test_a_snapshot_is_read_as_transformers_reads_it(vocabularies, folder, kind, beside):
    path = folder(with_bos(vocabularies[kind]), **BESIDE[beside])
    ours, theirs = load_tokenizer(path), AutoTokenizer.from_pretrained(path)
    assert ours.vocab_size == len(theirs)
    assert ours.end == theirs.eos_token_id
    for text in TEXTS:
        tokens = theirs(text).input_ids
        assert ours.prompt(text) == tokens
        assert ours.encode(text, special=True) == theirs(text, add_special_tokens=False).input_ids
        for special in (True, False):
            whole = theirs.decode(tokens, skip_special_tokens=not special)
            assert ours.decode(tokens, special) == "".join(ours.stream(tokens, special)) == whole
    written = theirs.apply_chat_template(HI, add_generation_prompt=True, tokenize=False)
    assert ours.chat(HI) == written
    assert ours.chat_tokens(HI) == theirs.apply_chat_template(HI, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("kind", ["Llama 2, new", "each word", "no first space", "Unigram", "words"])
def test_whatever_the_library_reads_works_the_same_way(vocabularies, folder, kind):
    library = vocabularies[kind]
    ours = load_tokenizer(folder(library))
    for text in ("hello", " hello  a hello.", "h\u00e9llo \N{LLAMA}", "<think>hello"):
        tokens = library.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ours.encode(text, special=True) == ours.prompt(text) == tokens
        assert ours.decode(tokens) == "".join(ours.stream(tokens)) == library.decode(tokens, skip_special_tokens=False)


def test_settings_for_batches_neither_cut_nor_fill(vocabularies, folder):
    library = with_bos(vocabularies["Llama 3"])
    library.enable_truncation(3)
    library.enable_padding(length=20, pad_token="<pad>")
    path = folder(library)
    ours, theirs = load_tokenizer(path), AutoTokenizer.from_pretrained(path)
    for text in TEXTS:
        assert ours.prompt(text) == theirs(text).input_ids
        assert ours.encode(text, special=True) == theirs(text, add_special_tokens=False).input_ids
    assert ours.chat_tokens(HI) == theirs.apply_chat_template(HI, add_generation_prompt=True, return_dict=False)


def test_normalizers_apply_with_and_without_special_tokens(vocabularies, folder):
    ours = load_tokenizer(folder(vocabularies["Llama 3"]))
    assert ours.encode("e\u0301") == ours.encode("e\u0301", special=True) == ours.encode("\u00e9")


@pytest.mark.parametrize(
    ("files", "chat"),
    [
        ({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}, "d"),
        ({"chat_template.jinja": "file"}, "file"),
        ({"chat_template.jinja": "file", "additional_chat_templates/rag.jinja": "r"}, "file"),
        ({"chat_template": "config", "additional_chat_templates/default.jinja": "more"}, "more"),
    ],
)
def test_chat_templates_are_found_where_transformers_finds_them(vocabularies, folder, files, chat):
    path = folder(vocabularies["Llama 3"], **files)
    ours, theirs = load_tokenizer(path), AutoTokenizer.from_pretrained(path)
    assert ours.chat(HI) == theirs.apply_chat_template(HI, tokenize=False) == chat
    for name in ours._templates if len(ours._templates) > 1 else ():  # a single one has no name there
        assert ours.chat(HI, template=name) == theirs.apply_chat_template(HI, chat_template=name, tokenize=False)


@pytest.mark.parametrize(("ends", "all_ends"), [([3, 5], {3, 5}), (3, {3}), ([], set()), (None, set())])
def test_all_ends_of_a_turn_are_read(vocabularies, folder, ends, all_ends):
    library = vocabularies["Llama 2"]
    ours = load_tokenizer(folder(library, ends))
    assert (ours.end, ours.ends) == (2, frozenset(all_ends | {2}))
    if all_ends:
        assert load_tokenizer(folder(library, ends, eos_token=None)).ends == all_ends
    (folder(library) / "generation_config.json").unlink()
    assert load_tokenizer(folder(library)).ends == {2}


def test_an_end_that_is_not_marked_as_special_is_none_of_a_users_words(vocabularies, folder):
    library = vocabularies["Llama 3"]
    end = library.token_to_id("<think>")
    ours = load_tokenizer(folder(library, [end]))
    assert end not in ours.encode("a<think>b")
    assert ours.encode("a<think>b", special=True)[1] == end
    assert load_tokenizer(folder(library)).encode("a<think>b")[1] == end  # a word like others, where it ends nothing


def test_a_vocabulary_with_holes(folder):
    library = Library(models.BPE({"a": 0, "<s>": 2, "</s>": 5}, []))
    library.add_special_tokens(["<s>", "</s>"])
    ours = load_tokenizer(folder(library))
    assert (ours.end, ours.vocab_size, ours.holes) == (5, 6, {1, 3, 4})
    assert ours.decode([0, 5]) == "a </s>"
    with pytest.raises(
        room.BadText, match="token 1 is none of this vocabulary's, which go from 0 to 5 but for 3 of them"
    ):
        ours.decode([0, 1])


def test_special_tokens_that_the_normalizer_writes_otherwise_are_left_out_all_the_same(vocabularies, folder):
    """As in the first files of Llama 2, whose library then calls </s> by another name than its list."""
    said = json.loads(vocabularies["Llama 2"].to_str())
    for token in said["added_tokens"]:
        token["normalized"] = True
    ours = load_tokenizer(folder(Library.from_str(json.dumps(said))))
    tokens = [*ours.encode("hello"), ours.end]
    assert ours.decode(tokens, special=False) == "".join(ours.stream(tokens, special=False)) == "hello"
    assert ours.decode(tokens) == "".join(ours.stream(tokens)) == ours.library.decode(tokens, skip_special_tokens=False)


REFUSED = [
    ({"split_special_tokens": True}, "Llama 2", "split_special_tokens, which cuts up"),
    ({"clean_up_tokenization_spaces": True}, "Unigram", "clean_up_tokenization_spaces with a Unigram model"),
    ({"eos_token": None}, "Llama 2", "no token ends a turn: neither tokenizer_config.json"),
    ({"eos_token": ""}, "Llama 2", "no token ends a turn: neither tokenizer_config.json"),
    (
        {"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": False},
        "Llama 2",
        "add_prefix_space is false, and tokenizer.json puts a space before a text",
    ),
    (
        {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
        "Llama 3",
        "add_prefix_space is true, and tokenizer.json puts no space before a text",
    ),
    ({"eos_token": 5}, "Llama 2", "not of the known form"),
    ({"chat_template": 5}, "Llama 2", "chat_template in tokenizer_config.json is no text"),
    ({"chat_template": [{"name": "default"}]}, "Llama 2", "not of the known form"),
    ({"tokenizer_config.json": "{"}, "Llama 2", "tokenizer_config.json is not JSON"),
    ({"tokenizer_config.json": "[]"}, "Llama 2", "tokenizer_config.json holds no JSON object"),
    ({"generation_config.json": '{"eos_token_id": 999}'}, "Llama 2", "generation_config.json ends a turn with 999"),
    ({"generation_config.json": '{"eos_token_id": "2"}'}, "Llama 2", "generation_config.json ends a turn with '2'"),
    ({"tokenizer.json": "{}"}, "Llama 2", "no tokenizer.json that can be read"),
    (
        {"pad_token": "<1>", "additional_special_tokens": [f"<{i}>" for i in range(99)]},
        "Llama 2",
        "and an embedding for 320",
    ),
]


@pytest.mark.parametrize(("beside", "kind", "line"), REFUSED)
def test_what_is_not_known_is_refused_in_one_line(vocabularies, folder, beside, kind, line):
    with pytest.raises(BadModelFile, match=line) as error:
        load_tokenizer(folder(vocabularies[kind], **beside))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda said: said["model"].update(dropout=0.5), "merges at random"),
        (lambda said: said["added_tokens"][0].update(single_word=True), "is single_word"),
        (lambda said: said["decoder"]["decoders"][-1].update(stop=1), "makes text with .*'stop': 1"),
        (
            lambda said: said.update(
                decoder={"type": "CTC", "pad_token": "a", "word_delimiter_token": "|", "cleanup": True}
            ),
            "CTC",
        ),
    ],
)
def test_nor_is_what_tokenizer_json_asks_for(vocabularies, folder, change, line):
    said = json.loads(vocabularies["Llama 2"].to_str())
    change(said)
    with pytest.raises(BadModelFile, match=line):
        load_tokenizer(folder(Library.from_str(json.dumps(said))))


def test_two_tokens_of_one_number_are_refused(vocabularies, folder):
    """Which of them the library takes differs from one reading to the next."""
    path = folder(vocabularies["Llama 2"]) / "tokenizer.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["model"]["vocab"] |= {"spare": 310, "other": 310}
    path.write_text(json.dumps(said))
    with pytest.raises(BadModelFile, match="two tokens of its tokenizer have the same number"):
        load_tokenizer(path.parent)


# GGUF

SAID = {key: open_checkpoint().metadata[key] for key in open_checkpoint().metadata}
LLAMA3 = (
    r"'(?i:s|t|re|ve|m|ll|d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def test_more_tokens_beside_it_than_the_embedding_has_are_refused_before_they_are_made(vocabularies, folder):
    many = {str(400 + i): TOKEN | {"content": f"<{i}>"} for i in range(321)}
    more = {f"<{i}>": 400 + i for i in range(321)}
    for beside in ({"added_tokens_decoder": many}, {"added_tokens.json": more}, {"extra_special_tokens": list(more)}):
        with pytest.raises(BadModelFile, match=r"321 tokens beside tokenizer\.json, and an embedding for 320"):
            load_tokenizer(folder(vocabularies["Llama 3"], **beside))


@pytest.mark.parametrize(
    "beside",
    [
        {"pad_token": "x" * 600_000},
        {"pad_token": TOKEN | {"content": "x" * 600_000}},
        {"additional_special_tokens": ["x" * 600_000]},
        {"added_tokens.json": {"x" * 600_000: 400}},
    ],
)
def test_a_token_as_long_as_a_book_is_refused(vocabularies, folder, beside):
    """The library takes seconds for a few of them, wherever they stand."""
    with pytest.raises(BadModelFile, match="a token of 600,000 letters"):
        load_tokenizer(folder(vocabularies["Llama 3"], **beside))


@pytest.fixture
def gguf(monkeypatch):
    """A function that loads the course's own file with other fields; `None` leaves one out."""

    def load(**changes):
        opened = open_checkpoint()
        said = SAID | {f"tokenizer.{key.replace('__', '.')}": value for key, value in changes.items()}
        said = {key: value for key, value in said.items() if value is not None}
        fake = checkpoints.Checkpoint(opened.path, opened.shapes, said, _config=opened._config, _fill={})
        monkeypatch.setattr(room, "open_checkpoint", lambda path=None: fake)
        return load_tokenizer()

    return load


@pytest.mark.parametrize(
    ("pre", "expression"),
    [("llama-bpe", LLAMA3), ("falcon3", LLAMA3), ("gpt-2", GPT2), ("starcoder", rf"\p{{N}}|{GPT2}")],
)
def test_words_are_cut_as_llama_cpp_cuts_them(gguf, pre, expression):
    """By the expression of its source, run by another library; a word of its own tokens is one, or merged."""
    ours, rng = gguf(ggml__pre=pre), random.Random(0)
    parts = [
        "it's",
        "I'LL ",
        "he",
        "LLO",
        "12345",
        " 678",
        "\u00e9t\u00e9",
        "\u4e16\u754c",
        "!?",
        " ...\n",
        "  ",
        "\n\n",
        "\t",
        "x",
        " the",
    ]
    for _ in range(300):
        text = "".join(rng.choices(parts, k=rng.randint(1, 8)))
        if pre == "starcoder":  # digits first, then the words between them
            words = [w for piece in regex.split(r"(\p{N})", text) for w in regex.findall(GPT2, piece)]
        else:
            words = regex.findall(expression, text)
        assert "".join(words) == text
        found = [ours.library.pre_tokenizer.pre_tokenize_str(text)][0]
        assert [text[begin:end] for _, (begin, end) in found] == words


def test_what_stands_around_a_text_is_what_the_file_says(gguf):
    bare = gguf().encode("hi")
    assert gguf().prompt("hi") == bare
    assert gguf(ggml__add_bos_token=True).prompt("hi") == [1, *bare]
    assert gguf(ggml__add_bos_token=True, ggml__add_eos_token=True).prompt("hi") == [1, *bare, 2]
    assert gguf(ggml__pre="llama-bpe", ggml__add_bos_token=None).prompt("hi")[0] == 1  # as llama.cpp takes it
    assert gguf(ggml__add_bos_token=True).encode("hi", special=True) == bare
    assert gguf().prompt("<|im_end|>") == [2]


def test_all_ends_of_a_gguf_file(gguf):
    assert gguf().ends == {2}
    assert gguf(ggml__eot_token_id=0, ggml__eom_token_id=5).ends == {0, 2, 5}


def test_named_templates_of_a_gguf_file(gguf):
    ours = gguf(chat_template__tool_use="t{{ bos_token }}{{ pad_token }}", chat_templates=["tool_use"])
    assert ours.chat(HI, template="tool_use") == "t<|im_start|><|im_end|>"
    assert ours.chat(HI) == gguf().chat(HI)


def test_tokens_that_only_fill_up_the_embedding_are_none(gguf):
    """Converters give rows beyond the tokenizer's a name, [PAD49150]: no answer says it."""
    tokens, merges = (list(SAID[f"tokenizer.ggml.{each}"]) for each in ("tokens", "merges"))
    n = len(tokens)
    gone = set(tokens[-3:])
    types = [*list(SAID["tokenizer.ggml.token_type"])[:-3], 5, 5, 5]
    tokens[-3:] = [f"[PAD{token}]" for token in range(n - 3, n)]
    merges = [merge for merge in merges if not {*merge.split(" "), merge.replace(" ", "")} & gone]
    ours = gguf(ggml__tokens=tokens, ggml__token_type=types, ggml__merges=merges)
    assert ours.vocab_size == n - 3
    with pytest.raises(room.BadText, match=f"token {n - 1} is none"):
        ours.decode([n - 1])


def test_tokens_that_a_user_defined_are_words(gguf):
    """llama.cpp finds them in any text; a control token only where it is asked for."""
    types = [4 if token == 100 else type_ for token, type_ in enumerate(SAID["tokenizer.ggml.token_type"])]
    ours = gguf(ggml__token_type=types)
    text = ours.library.id_to_token(100)
    assert 100 in ours.encode(f"hm{text}hm")
    assert ours.decode([100], special=False) == text


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"ggml__model": "llama"}, "the tokenizer is 'llama'"),
        ({"ggml__model": "t5"}, "the tokenizer is 't5'"),
        ({"ggml__pre": "tekken"}, "with words as 'tekken'"),
        ({"ggml__pre": None}, "with words as None"),
        ({"ggml__add_space_prefix": True}, "says add_space_prefix = True, which is not known"),
        ({"ggml__remove_extra_whitespaces": True}, "says remove_extra_whitespaces = True"),
        ({"ggml__precompiled_charsmap": b"x"}, "says precompiled_charsmap"),
        ({"ggml__normalizer": "nfc"}, "says normalizer = nfc"),
        ({"ggml__bos_token_id": None, "ggml__add_bos_token": True}, "adds a bos_token to each text, and names none"),
        ({"ggml__eot_token_id": 999999}, r"ends with one \(999999\)"),
        ({"ggml__eos_token_id": None}, r"ends with one \(-1\)"),
        ({"ggml__eos_token_id": "2"}, "not of the known form"),
    ],
)
def test_what_a_gguf_file_asks_for_and_nobody_knows_is_refused(gguf, change, line):
    with pytest.raises(BadModelFile, match=line) as error:
        gguf(**change)
    assert "\n" not in str(error.value)
