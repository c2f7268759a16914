"""The final examination: its references against values worked out by hand, its hints, and papers by seed."""

import math

import pytest

from llmhw_helpers.course.exercises import EXERCISES
from llmhw_helpers.course.exercises.examination import TWELVE, examination, mark
from llmhw_helpers.course.grading import grade

SEEDS = range(40)
DAY = 86400


def by_formula(q):
    """All twelve from the numbers that a paper gives, as a learner would."""
    root, up = math.sqrt, math.ceil
    shape = ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab_size")
    layers, d, heads, kv, size, d_ff, vocab = (q[3][name] for name in shape)
    inside = layers * (2 * d * size * (heads + kv) + 3 * d * d_ff)
    assert q[3]["tied"] == ("not the same" not in q[3].text)
    tables = 1 if q[3]["tied"] else 2
    held = {1: (4, 12), 2: (2, 14), 3: (0, 16)}[q[2]["zero"]]
    room = 0.9 * q[7]["memory_bytes"] - 2 * q[7]["n_params"] - q[7]["reserve"]
    block = 16 * 4 * q[7]["n_layers"] * q[7]["n_kv_heads"] * q[7]["head_dim"]
    ring, n = 2 * (q[10]["n_ranks"] - 1), q[10]["n_ranks"]
    rows, w = q[1]["rows"], q[1]["width"]
    return {
        1: max(2 * rows * w * w / q[1]["flops_per_s"], (4 * rows * w + 2 * w * w) / q[1]["bytes_per_s"]),
        2: q[2]["n_params"] * (held[0] + held[1] / q[2]["dp_size"]),
        3: inside + tables * vocab * d,
        4: 6 * q[4]["n_params"] * q[4]["n_tokens"] / (q[4]["n_gpus"] * q[4]["mfu"] * q[4]["flops_per_s"]) / DAY,
        5: q[5]["rank"]
        * q[5]["n_layers"]
        * (2 * q[5]["d_model"] + (q[5]["n_heads"] + q[5]["n_kv_heads"]) * q[5]["head_dim"]),
        6: q[6]["batch_size"]
        * q[6]["bytes_per_s"]
        / (q[6]["weight_bytes"] + q[6]["batch_size"] * q[6]["context"] * q[6]["cache_bytes_per_token"]),
        7: room // block // up(q[7]["context"] / 16),
        8: 2 * q[8]["batch_size"] * q[8]["n_heads"] * q[8]["seq_len"] ** 2,
        9: q[9]["n_quantised"] * (4 + 20 / 128) / 8 + 2 * q[9]["n_other"],
        10: ring * (q[10]["latency_s"] + 8 * q[10]["n_bytes"] / n / q[10]["bits_per_s"]),
        11: root(2 * 14 * q[11]["n_params"] / q[11]["bytes_per_s"] * q[11]["mtbf_s"] / q[11]["n_gpus"]),
        12: 6 * q[12]["n_params"] * q[12]["tokens_per_s"] / q[12]["n_gpus"] / q[12]["flops_per_s"],
    }


def by_reference(paper):
    return {number: question.right for number, question in enumerate(paper, 1)}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_numbers_given_are_enough_on_any_paper(seed):
    paper = examination(seed)
    assert [number for number, each in paper.marks(by_formula(paper)).items() if not each.right] == []
    assert paper.graded(by_formula(paper)).endswith("12 of 12 right")


@pytest.mark.parametrize("question", TWELVE, ids=lambda question: question.__name__)
def test_each_usual_slip_is_told_with_its_own_hint_on_some_paper(question):
    number, told, known = TWELVE.index(question) + 1, set(), set()
    for seed in SEEDS:
        asked = examination(seed)[number]
        assert len(asked.slips) >= 3
        known |= {hint for _, hint in asked.slips}
        for slip, hint in asked.slips:
            verdict = mark(asked, slip)
            if hint in verdict.line:
                assert not verdict.right
                told.add(hint)
    assert told == known


def test_a_slip_is_never_marked_right_unless_it_gives_the_right_number():
    for seed in SEEDS:
        for question in examination(seed):
            for slip, hint in question.slips:
                same = math.isclose(slip, question.right, rel_tol=question.rtol)
                assert mark(question, slip).right == same, hint


def test_where_two_slips_give_one_number_both_are_told():
    for seed in SEEDS:
        for question in examination(seed):
            for slip, hint in question.slips:
                assert mark(question, slip).right or hint in mark(question, slip).line


def test_a_seed_gives_one_paper_and_another_seed_another():
    assert str(examination(5)) == str(examination(5))
    assert len({str(examination(seed)) for seed in SEEDS}) == len(SEEDS)
    right = by_reference(examination(5))
    assert sum(each.right for each in examination(6).marks(right).values()) < 4


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "not answered yet"),
        (..., "not answered yet"),
        ("3", "not str"),
        (True, "not bool"),
        ([1.0], "not list"),
        (math.nan, "above zero"),
        (math.inf, "is smaller"),
        (-1.0, "above zero"),
        (10**400, "not int"),
        (1e-9, "is larger. See notebook 05"),
    ],
)
def test_whatever_is_answered_gets_a_line(answer, words):
    found = mark(examination(1)[4], answer)
    assert not found.right
    assert words in found.line


def test_a_wrong_prefix_is_told():
    question = examination(1)[2]
    for factor in (1e-9, 1e-6, 2**-30):
        assert "digits are right" in mark(question, factor * question.right).line


def test_within_a_percent_is_right_but_a_count_is_exact():
    paper = examination(1)
    assert mark(paper[4], 1.009 * paper[4].right).right
    assert not mark(paper[4], 1.02 * paper[4].right).right
    assert not mark(paper[7], paper[7].right + 1).right


@pytest.mark.parametrize("number", [0, 13, "1", 1.5])
def test_there_is_no_question_of_that_number(number):
    with pytest.raises(IndexError, match="has the questions 1 to 12"):
        examination(1)[number]
    with pytest.raises(IndexError, match="has the questions 1 to 12"):
        examination(1).marks({number: 1.0})


def test_answers_come_by_number():
    with pytest.raises(TypeError, match="a mapping such as"):
        examination(1).marks([1.0] * 12)


def half(paper):
    return {number: value for number, value in by_formula(paper).items() if number < 7}


WRONG = [
    (lambda paper: None, "not answered yet"),
    (half, "6 of 12 right; question 7: not answered yet"),
    (lambda paper: list(by_formula(paper).values()), "return a dict"),
    (lambda paper: by_formula(paper) | {13: 1.0}, "has the questions 1 to 12"),
    (lambda paper: by_formula(paper) | {12: 1.0}, "11 of 12 right; question 12: not yet. Busy means"),
    (lambda paper: by_formula(examination(2026)), "right; question"),  # one paper's numbers for all
]


def test_the_exercise():
    exercise = EXERCISES["twelve_answers"]
    for answer in (by_formula, by_reference):
        assert grade(answer, exercise).line == "twelve_answers: correct."
    for answer, words in WRONG:
        verdict = grade(answer, exercise)
        assert not verdict.right
        assert words in verdict.line
        assert "\n" not in verdict.line


def test_no_slip_gives_the_right_answer():
    for seed in range(100):
        for question in examination(seed):
            for slip, hint in question.slips:
                assert not math.isclose(slip, question.right, rel_tol=question.rtol), (seed, question.topic, hint)
