import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.specs import figures
from llmhw_helpers.specs.figures import Figure, UnknownFigure, UnknownName, look_up

TABLE = {"A40": 1, "A100-40GB": 2, "A100-80GB": 3, "T4": 4}
NAMES = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12)


def test_a_known_figure_gives_its_value_zero_included():
    assert Figure(900e9, "B/s", "peak", "sheet").known() == 900e9
    assert Figure(0.0, "", "local layers", "config.json").known() == 0


def test_an_unknown_figure_says_what_is_missing_and_who_was_asked():
    with pytest.raises(UnknownFigure, match=r"^unknown: throughput of the file system \(no public source\)$"):
        Figure(None, "B/s", "throughput of the file system", "no public source").known()


@pytest.mark.parametrize("spelling", ["A100-40GB", "a100-40gb", "A100 40GB", "a100_40gb", " A100-40GB\n"])
def test_case_and_punctuation_do_not_matter(spelling):
    assert look_up(spelling, TABLE, "accelerator") == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("A100", "did you mean A100-40GB, A100-80GB or A40?"),  # a prefix of two: ambiguous, refused
        ("A10", "did you mean A100-40GB, A100-80GB or A40?"),
        ("A41", "did you mean A40 or T4?"),
        ("zzz", "known are A40, A100-40GB, A100-80GB, T4"),
        ("", "known are A40, A100-40GB, A100-80GB, T4"),
    ],
)
def test_an_unknown_name_lists_the_nearest_or_all(name, hint):
    with pytest.raises(UnknownName) as caught:
        look_up(name, TABLE, "accelerator")
    assert str(caught.value) == f"unknown accelerator {name!r}; {hint}"


@given(st.dictionaries(NAMES, st.integers(), min_size=1, max_size=8), st.data())
def test_every_name_finds_its_own_entry_in_upper_case_and_with_punctuation(table, data):
    name = data.draw(st.sampled_from(sorted(table)))
    assert look_up("-".join(name.upper()), table, "thing") == table[name]


@given(st.dictionaries(NAMES, st.integers(), min_size=1, max_size=8), NAMES)
def test_a_name_is_found_or_refused_but_never_guessed(table, name):
    if name in table:
        assert look_up(name, table, "thing") == table[name]
    else:
        with pytest.raises(UnknownName) as caught:
            look_up(name, table, "thing")
        assert any(key in str(caught.value).split(";", 1)[1] for key in table)


def test_a_message_stays_a_line_however_long_the_name_and_the_table():
    with pytest.raises(UnknownName) as error:
        look_up("?" * 100_000, {f"card {i}": i for i in range(100)}, "accelerator")
    assert len(str(error.value)) < 400
    assert str(error.value).endswith("card 19 and 80 more")


def test_an_unknown_name_is_simplified_once_and_not_for_each_entry(monkeypatch):
    """It may come from a file, and be of megabytes."""
    simplified, plain = [], figures._plain
    monkeypatch.setattr(figures, "_plain", lambda name: simplified.append(name) or plain(name))
    with pytest.raises(UnknownName):
        look_up("b" * 100, {str(i): i for i in range(50)}, "thing")
    assert simplified.count("b" * 100) <= 2
