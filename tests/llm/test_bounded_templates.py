"""Templates that would never end or fill the memory are refused at once; all others write what Jinja's sandbox does."""

import resource
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmhw_helpers.llm.bounded_templates import MOST, BoundedEnvironment, TooMuch, purses

THEIRS, OURS = ImmutableSandboxedEnvironment(), BoundedEnvironment()
MOST_TAKEN = 400e6 / (1 if sys.platform == "darwin" else 1024)  # in the unit of ru_maxrss
DOUBLE = "{% set a = 'abcdefgh' %}"
ATTACKS = {
    "a loop in a loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "a macro that calls itself twice, to some depth": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a recursive loop": "{% for i in [[]] recursive %}{{ loop([[]]) }}{{ loop([[]]) }}{% endfor %}",
    "a text many times": "{{ 'a' * 10 ** 9 }}",
    "many times a text": "{{ 1000000000 * 'a' }}",
    "a list many times": "{{ ([0] * 999999999) | length }}",
    "a power": "{{ 9 ** 9 ** 9 }}",
    "a power of a float": "{{ 2.5 ** 999999999 }}",
    "squares": "{% set ns = namespace(n=7) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "doubling by ~": DOUBLE + "{% set a = a ~ a %}" * 60 + "{{ a | length }}",
    "doubling by +": DOUBLE + "{% set a = a + a %}" * 60 + "{{ a | length }}",
    "many in one ~": "{% set a = 'a' * 1000000 %}{{ (" + "a ~ " * 5000 + "a) | length }}",
    "doubling by blocks": DOUBLE + "{% set a %}{{ a }}{{ a }}{% endset %}" * 60 + "{{ a | length }}",
    "lists in lists": "{% set a = [0] %}" + "{% set a = [a, a] %}" * 60 + "{{ a }}",
    "lists in lists, compared": (
        "{% set a = [0] %}{% set b = [0] %}" + "{% set a = [a, a] %}{% set b = [b, b] %}" * 60 + "{{ a == b }}"
    ),
    "pairs in pairs": "{% set a = (0, 0) %}" + "{% set a = (a, a) %}" * 60 + "{{ a | string | length }}",
    "objects in objects": "{% set a = {} %}" + "{% set a = {'x': a, 'y': a} %}" * 60 + "{{ a | tojson | length }}",
    "a width": "{{ 'a'.center(999999999) }}",
    "a width by a filter": "{{ 'a' | center(999999999) }}",
    "a width in a format": "{{ '%999999999d' % 1 }}",
    "a width beside a format": "{{ '%*d' % (999999999, 1) }}",
    "a width in braces": "{{ '{:999999999}'.format(1) }}",
    "a width in braces of its own": "{{ '{:{}}'.format(1, 999999999) }}",
    "a width by the filter of formats": "{{ '%999999999d' | format(1) }}",
    "a longer text for each letter": "{% set a = 'a' * 1000000 %}{{ a.replace('a', a) | length }}",
    "the same by a filter": "{% set a = 'a' * 1000000 %}{{ (a | replace('a', a)) | length }}",
    "a long text between items": "{{ ('a' * 1000000).join('b' * 1000000) | length }}",
    "a deep indent": "{{ ('\\n' * 1000000) | indent(999999) | length }}",
    "tabs": "{{ ('\\t' * 1000000).expandtabs(999999) | length }}",
    "batches": "{{ [1] | batch(999999999, 0) | list | length }}",
    "a long output": "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
    "its own words, often": "{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}",
    "words from nowhere": "{{ lipsum(99999) }}",
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_what_would_take_too_much_is_refused_at_once(kind):
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises((TemplateError, RecursionError)), purses():
        OURS.from_string(ATTACKS[kind]).render()
    assert time.process_time() - began < 10  # a hang, and not a machine that is slow
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_TAKEN


def test_the_purses_are_new_for_each_writing():
    template = OURS.from_string("{% for i in range(60000) %}{% endfor %}done")
    for _ in range(3):
        with purses():
            assert template.render() == "done"
    with pytest.raises(TooMuch, match=f"more than {MOST['steps']:,} steps"), purses():
        OURS.from_string("{% for i in range(60000) %}{% endfor %}" * 2).render()


SAME = [
    "{{ a ~ 1 ~ none ~ nothing }}",
    "{{ [1, 'b', [a]] }} {{ (1, a) }} {{ {'k': a} }}",
    "{{ a == 'x' }} {{ 1 < n <= 3 }} {{ a in 'xyz' }} {{ [1, [2]] == [1, [2]] }} {{ a is string }}",
    "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ loop.index }}{{ k }}{{ v }}{% else %}none{% endfor %}",
    "{% for x in l if x is odd %}{{ loop.length }}{{ x }}{% endfor %}",
    "{% for x in l recursive %}{{ x }}{{ loop([]) }}{% endfor %}",
    "{% macro f(x, y=2) %}<{{ x }}{{ y }}{{ caller() if caller }}>{% endmacro %}{{ f(a) }}{% call f(1) %}{% endcall %}",
    "{% set ns = namespace(x=1) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
    "{{ l | map('string') | join(', ') }} {{ l | select('odd') | list }} {{ l | batch(2) | list }} {{ l | sum }}",
    "{{ '%s-%03d' % (a, n) }} {{ '{:>5}'.format(a) }} {{ '%s' | format(a) }} {{ a | upper | indent(2) }}",
    "{{ a.replace('x', 'yy') }} {{ a[::-1] }} {{ l[1:] }} {{ ', '.join(['p', 'q']) }} {{ 'a b'.split() }}",
    "{{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 5 }} {{ 7 / 2 }} {{ 3 * 'ab' }} {{ -n }} {{ [0] * 2 }} {{ n - 1 }}",
    "{% set x, y = (1, 2) %}{{ x }}{{ y }}{% set z %}b{{ a }}{% endset %}{{ z | length }}",
    "{{ a if n > 1 else 'b' }} {{ nothing is defined }} {{ l | first }} {{ l | length }} {{ dict(a=1) }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}",
    "{{ a | tojson }} {{ l | sort(reverse=true) }} {{ {'b': 1} | dictsort }} {{ '<' | e }} {{ a | default('d') }}",
]


@pytest.mark.parametrize("source", SAME)
def test_everything_else_is_as_in_jinjas_own_sandbox(source):
    given = {"a": "x", "n": 3, "l": [3, 1, 2], "messages": [{"role": "user", "content": "hi"}]}
    with purses():
        assert OURS.from_string(source).render(given) == THEIRS.from_string(source).render(given)


@settings(max_examples=40)
@given(st.lists(st.sampled_from([*SAME, *ATTACKS.values()]), max_size=3).map("".join))
def test_any_order_of_these_is_refused_or_the_same(source):
    values = {"a": "x", "n": 3, "l": [3, 1, 2], "messages": []}
    with purses():
        try:
            found = OURS.from_string(source).render(values)
        except (TemplateError, RecursionError):
            return
    assert found == THEIRS.from_string(source).render(values)
