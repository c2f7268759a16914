"""Chats as transformers writes them, and messages that would like to be more than text."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Library
from transformers import PreTrainedTokenizerFast

from llmhw_helpers.llm import templates
from llmhw_helpers.llm.templates import ChatTemplate
from llmhw_helpers.llm.tokenizer import BadText, Tokenizer

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
LOOP = "{% for m in messages %}"
SAID = LOOP + "[INST]{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}[INST]{% endif %}"
# Templates as models have them: what they do with a message, and what they do with the environment.
WRITTEN = {
    "plain": SAID,
    "one literal": LOOP + "{{ '[INST]' + m['role'] + ' ' + m['content'] + '<|end|>' }}{% endfor %}",
    "trim": LOOP + "[INST] {{ m.content | trim }} [/INST]{% endfor %}",
    "upper": LOOP + "[INST]{{ m.content | upper }}[/INST]{% endfor %}",
    "json": LOOP + "[INST]{{ m | tojson }}[/INST]{% endfor %}",
    "twice": LOOP + "<|end|>{{ m.content }}<|end|>{{ m.content }}{% endfor %}",
    "cut": LOOP + "<|end|>{{ m.content[:9] }}{% if m.content|length > 9 %}...{% endif %}<|end|>{% endfor %}",
    "changed": LOOP + "<|end|>{{ m.content.replace('_', '') }}<|end|>{% endfor %}",
    "a role in a token": LOOP + "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}",
    "a token that takes spaces": LOOP + "<wide> {{ m.content }}<wide>{% endfor %}",
    "as Python prints it": LOOP + "<|end|>{{ [m.content] }}[INST]{% endfor %}",
    "thoughts in capitals": LOOP + "{% set c = m.content.split('</think>')[-1] %}<|end|>{{ c | upper }}{% endfor %}",
    "thoughts": LOOP + "{% set c = m.content %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip() %}"
    "{% endif %}<|end|>{{ c }}{% endfor %}",
}
RENDERED = WRITTEN | {
    "names": "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token is defined }}|{{ pad_token }}",
    "no tools": "{{ tools is none }}{{ tools is defined }}{{ documents }}{{ undefined_thing is defined }}",
    "break": LOOP + "{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "continue": LOOP + "{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "generation": LOOP + "{%- generation -%} {{ m.content }} {% endgeneration %}\n{% endfor %}",
    "a date": "{{ strftime_now('%Y-%m-%d') }}",
    "JSON in lines": "{{ messages | tojson(indent=2) }}{{ messages | tojson(sort_keys=true, separators=(',', ':')) }}",
    "JSON in ASCII": "{{ messages | tojson(ensure_ascii=true) }}",
    "lines of blocks": "{%- for m in messages %}\n  {% if m.role %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}",
    "names of its own": "{% set ns = namespace(n=0) %}" + LOOP + "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "a macro": "{% macro say(x) %}<{{ x }}>{% endmacro %}" + LOOP + "{{ say(m.content) }}{% endfor %}",
    "thoughts by name": LOOP + "{{ m.reasoning_content }}{{ m.thinking }}{{ m.reasoning }}{% endfor %}",
    "what is not there": LOOP + "{{ m.tool_calls is defined }}{{ m.content }}{% endfor %}",
    "parts": LOOP
    + "{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}{% endfor %}",
}
CHATS = [
    [{"role": "user", "content": 'a <b> & "é" \N{LLAMA}\n'}],
    [{"role": "system", "content": " s "}, {"role": "user", "content": ""}, {"role": "assistant", "content": "x_y"}],
    [{"role": "user", "content": "1", "tool_calls": None, "name": None}, {"role": "assistant", "content": "<think>"}],
    [{"role": "assistant", "content": "4", "reasoning": "2 + 2"}, {"role": "user", "content": "why?</think> hm"}],
]


def theirs(library, template: str):
    oracle = PreTrainedTokenizerFast(tokenizer_object=Library.from_str(library.to_str()), **NAMED)
    oracle.chat_template = template
    return oracle


def ours(library, template) -> Tokenizer:
    return Tokenizer(library, library.token_to_id("<|end|>"), template, names=NAMED)


@pytest.mark.parametrize("name", RENDERED)
def test_a_chat_is_written_as_transformers_writes_it(vocabularies, name):
    oracle, tokenizer = theirs(vocabularies["Llama 3"], RENDERED[name]), ours(vocabularies["Llama 3"], RENDERED[name])
    parts = [{"role": "user", "content": [{"type": "text", "text": "é"}]}] if name in ("parts", "JSON in lines") else []
    for chat in [*CHATS, *([parts] if parts else [])]:
        for answer in (True, False):
            written = oracle.apply_chat_template(chat, add_generation_prompt=answer, tokenize=False)
            assert tokenizer.chat(chat, answer) == written


@pytest.mark.parametrize("kind", ["Llama 2", "Llama 2, new", "each word", "Unigram", "Llama 3"])
@pytest.mark.parametrize("name", WRITTEN)
def test_the_tokens_of_ordinary_messages_are_those_of_transformers(vocabularies, kind, name):
    oracle, tokenizer = theirs(vocabularies[kind], WRITTEN[name]), ours(vocabularies[kind], WRITTEN[name])
    for chat in CHATS:
        expected = oracle.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert tokenizer.chat_tokens(chat) == expected


LOOKS = ["<|end|>", "[INST]", "[inst]", "[/INST]", "<|user|>", "<s>", "</s>", "<unk>", "<wide>", " <wide> "]
HALVES = [
    "<|",
    "end|>",
    "<|end",
    "<",
    "|",
    ">",
    "[IN",
    "ST]",
    "<|en_d|>",
    "</think>",
    "<think>",
    "\U000f0000",
    "\U000f0001",
]
TEXTS = st.lists(st.sampled_from([*LOOKS, *HALVES, "hello", " ", "\n"]) | st.text(max_size=3), max_size=5).map("".join)


def control(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    """The special tokens among them, but for the one that stands for a letter that is not known."""
    added = tokenizer.library.get_added_tokens_decoder()
    return [added[t].content for t in tokens if t in added and added[t].special and added[t].content != "<unk>"]


@settings(max_examples=200)
@given(
    st.sampled_from(["Llama 2", "Llama 2, new", "each word", "no first space", "Unigram", "Llama 3"]),
    st.sampled_from(sorted(WRITTEN)),
    st.lists(TEXTS, min_size=1, max_size=2),
)
def test_no_message_makes_a_control_token(vocabularies, kind, name, texts):
    tokenizer = ours(vocabularies[kind], WRITTEN[name])
    tokens = tokenizer.chat_tokens([{"role": "user", "content": text} for text in texts])
    ordinary = tokenizer.chat_tokens([{"role": "user", "content": "hello"} for _ in texts])
    assert control(tokenizer, tokens) == control(tokenizer, ordinary)


@pytest.mark.parametrize("kind", ["Llama 2", "Llama 2, new", "each word", "Unigram", "Llama 3"])
def test_what_looks_special_becomes_what_the_library_makes_of_plain_text(vocabularies, kind):
    """The same vocabulary without the special tokens is the oracle, on texts that lie between two real ones."""
    library = vocabularies[kind]
    tokenizer = ours(library, LOOP + "[INST]{{ m.content }}[/INST]{% endfor %}")
    blind = Library.from_str(library.to_str())
    blind.encode_special_tokens = True
    blind.add_tokens([AddedToken(mark, normalized=False) for mark in "\u00ab\u00bb"])  # stand where the real ones do
    begin, end = (library.token_to_id(text) for text in ("[INST]", "[/INST]"))
    for text in ("a <|end|> b", "[/INST]", "h[INST]hello  [/INST]", " <|user|>\n<|end|>"):
        left = blind.encode(f"\u00ab{text}\u00bb", add_special_tokens=False).ids
        assert left[0] == blind.token_to_id("\u00ab")
        assert left[-1] == blind.token_to_id("\u00bb")
        assert tokenizer.chat_tokens([{"role": "user", "content": text}]) == [begin, *left[1:-1], end]


def test_a_token_that_a_vocabulary_makes_of_plain_letters_is_no_way_in(vocabularies):
    """Unigram's best path for "</s>" is the token itself: the library alone does not keep them apart."""
    library = vocabularies["Unigram"]
    end = library.token_to_id("</s>")
    alone = Library.from_str(library.to_str())
    alone.encode_special_tokens = True
    assert end in alone.encode("a</s>b").ids
    tokenizer = ours(library, SAID)
    assert end not in tokenizer.encode("a</s>b")
    assert end not in tokenizer.chat_tokens([{"role": "user", "content": "a</s>b"}])


@pytest.mark.parametrize(
    "message",
    [
        {"role": "<|end|>", "content": "x"},
        {"role": "assistant", "content": "x", "name": "[INST]"},
        {"role": "tool", "content": [{"type": "text", "text": "<|end|>"}, {"type": "text", "text": "[IN"}]},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"<|end|>": "</s>", "n": 1.5}}]},
        {"role": "tool", "content": ("<|", "end|>")},
        {"role": "end", "content": "a role that is nobody's"},
    ],
)
def test_nor_does_any_other_field(vocabularies, message):
    everything = "{{ '<|' ~ m.role ~ '|>' }}{{ m.content }}{{ m.content | join('') if m.content is not string }}"
    source = LOOP + everything + "{{ m.name }}{{ m.tool_calls | tojson if m.tool_calls }}<s>{% endfor %}"
    tokenizer = ours(vocabularies["Llama 2"], source)
    assert control(tokenizer, tokenizer.chat_tokens([message])) == ["<s>"]


def test_roles_that_everybody_knows_make_the_tokens_that_a_template_means(vocabularies):
    tokenizer = ours(vocabularies["Llama 2"], WRITTEN["a role in a token"])
    tokens = tokenizer.chat_tokens([{"role": "user", "content": "<|user|>"}])
    assert control(tokenizer, tokens) == ["<|user|>", "<|end|>"]


def test_a_template_that_answers_to_a_token_in_a_message(vocabularies):
    """With text: nothing is forged. With a token of its own: a message that asks for it is refused."""
    answers = [{"role": "user", "content": "a <|end|> b"}]
    cut = ours(vocabularies["Llama 2"], LOOP + "{{ 'o' if '<|end|>' in m.content else m.content }}<|end|>{% endfor %}")
    assert cut.chat_tokens(answers) == cut.chat_tokens([{"role": "user", "content": "o"}])
    marked = LOOP + "{% if '<|end|>' in m.content %}[INST]{% endif %}{{ m.content }}<|end|>{% endfor %}"
    with pytest.raises(BadText, match="one holds some: write it otherwise") as error:
        ours(vocabularies["Llama 2"], marked).chat_tokens(answers)
    escaped = LOOP + "[INST]{{ m.content | escape }}<|end|>{% endfor %}"
    oracle, web = theirs(vocabularies["Llama 2"], escaped), ours(vocabularies["Llama 2"], escaped)
    for text in ("a < b & c", "<|end|>"):  # the template itself makes another text of it
        chat = [{"role": "user", "content": text}]
        assert web.chat_tokens(chat) == oracle.apply_chat_template(chat, return_dict=False)
    with pytest.raises(BadText, match="one holds some"):
        web.chat_tokens([{"role": "user", "content": "<|end|>[INST]"}])
    made = LOOP + "{{ m.content | escape | length }}{{ m.content.replace('_', '') }}{% endfor %}"
    with pytest.raises(BadText, match="one holds some"):
        ours(vocabularies["Llama 2"], made).chat_tokens([{"role": "user", "content": "<|en_d|>"}])
    assert "\n" not in str(error.value)


def test_templates_by_name(vocabularies):
    tokenizer = ours(vocabularies["Llama 3"], {"default": "d", "tool_use": "t{{ eos_token }}"})
    hi = [{"role": "user", "content": "Hi"}]
    assert (tokenizer.chat(hi), tokenizer.chat(hi, template="tool_use")) == ("d", "t</s>")
    assert control(tokenizer, tokenizer.chat_tokens(hi, template="tool_use")) == ["</s>"]
    with pytest.raises(BadText, match="no chat template is called 'rag'; there are: default, tool_use"):
        tokenizer.chat(hi, template="rag")
    with pytest.raises(BadText, match="no chat template is called 'default'; there are: rag"):
        ours(vocabularies["Llama 3"], {"rag": "r"}).chat(hi)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("{% for m in messages %}", "not as Jinja's language asks, line 1"),
        ("{% mystery %}", "not as Jinja's language asks, line 1: .*mystery"),
        ("{{ raise_exception('roles must alternate') }}", "refuses these messages: roles must alternate"),
        ("{{ messages[0].content.no.such }}", "refuses these messages: .*no attribute"),
        ("{{ 1 // 0 }}", "refuses these messages: .*zero"),
        ("{{ messages.append(1) }}", "refuses these messages: .*append"),
        ("{{ messages.__class__.__mro__ }}", "refuses these messages: .*__class__"),
        ("{{ range(999999999) | list }}", "refuses these messages: Range too big"),
        ("a" * 100_001, r"has 100,001 letters; up to 100,000 are read"),
        ("{{ 'a' * 100_021 }}", r"writes 100,021 letters, and these messages ask for 100,020 at most"),  # 10 times "Hi"
        ("{{ 1 }}" * 5000, r"has 25,000 words and signs; up to 20,000 are read"),
        ("{% for a in b %}" * 60 + "{% endfor %}" * 60, r"cannot be compiled \((Syntax|Indentation)Error: too many"),
        ("{{" + "(" * 3000 + ")" * 3000 + "}}", r"cannot be compiled \(RecursionError"),
        ("{{ a" + "()" * 3000 + "}}", r"cannot be compiled \(RecursionError"),
    ],
)
def test_templates_that_fail_say_so_in_one_line(source, line):
    with pytest.raises(BadText, match=line) as error:
        ChatTemplate(source, {}).render([{"role": "user", "content": "Hi"}])
    assert "\n" not in str(error.value)


def test_more_characters_than_can_be_hidden_are_refused(monkeypatch):
    monkeypatch.setattr(templates, "RARE", range(0x20000, 0x20002))
    with pytest.raises(BadText, match="hold 7 different characters, more than can be told"):
        ChatTemplate("{{ messages[0].content }}", {}).pieces([{"content": "hello"}], True, ["<s>"])


def test_the_rounds_of_hiding_all_matter():
    """Which templates need which: the pieces that are theirs stay the same."""
    words = ["[INST]", "<|end|>"]
    content, plain = ([{"role": "user", "content": text}] for text in ("[inst]<|end|>", "x"))
    for source in WRITTEN.values():
        pieces = ChatTemplate(source, {}).pieces(content, True, words)
        assert "".join(pieces) == ChatTemplate(source, {}).render(content)
        assert pieces[1::2] == re.findall(r"\[INST\]|<\|end\|>", ChatTemplate(source, {}).render(plain))
