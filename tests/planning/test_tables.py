"""The answer as text: aligned, and the bar as long as the memory's share."""

from llmhw_helpers.costs.planner import answer
from llmhw_helpers.planning.tables import BAR, memory, report, table

ANSWER = answer({"model": "Llama-3.1-70B", "task": "serve", "where": "Alvis"})


def test_columns_are_aligned():
    head, *rows = table(ANSWER["plans"]).splitlines()
    start = head.index("nodes")
    assert all(row[start - 2 : start] == "  " and row[start].isdigit() for row in rows)


def test_the_bar_shows_the_share_of_the_limit():
    plan = ANSWER["plans"][0]
    bar = memory(plan).split("[")[1].split("]")[0]
    used = sum(plan["memory"]["parts"].values()) + plan["memory"]["reserve"][1]
    assert abs(len(bar.rstrip()) - BAR * used / plan["memory"]["limit"]) <= 3
    assert len(bar) >= BAR


def test_all_that_the_answer_says_is_there():
    said = report(ANSWER, sources=True)
    for line in [ANSWER["headline"], *ANSWER["reasons"], *ANSWER["notes"], *ANSWER["plans"][0]["sources"]]:
        assert line in said
    assert all(refusal["why"] in said for refusal in ANSWER["refused"])


def test_no_price_is_said():
    said = answer({"model": "Llama-3.1-70B", "task": "serve", "where": "Arrhenius"})
    assert "unknown" in table(said["plans"])
