"""The planner's answer as text: aligned columns, memory as a bar, and reasons in sentences."""

from collections.abc import Mapping, Sequence

from ..costs.reasons import duration
from ..specs.figures import si

BAR = 48  # characters of the memory's limit


def report(answer: Mapping, n_plans: int = 8, sources: bool = False) -> str:
    """What `costs.planner.answer` says, for a terminal.

    Args:
        answer: as it came.
        n_plans: rows of the table.
        sources: of every figure, too.
    """
    if not answer["ok"]:
        return "\n".join([answer["error"], *([f"Possible: {answer['nearest']}"] if answer["nearest"] else [])])
    plans = answer["plans"]
    said = [answer["headline"], *(f"- {reason}" for reason in answer["reasons"]), "", table(plans[:n_plans])]
    said += ["* no other plan is at least as cheap, as fast and as true (Pareto)", "", memory(plans[0])]
    said += section("What does not do", [f"{each['what']}: {each['why']}" for each in answer["refused"]])
    said += section("Notes", answer["notes"])
    if sources:
        said += section("Sources of the first plan's figures", plans[0]["sources"])
    return "\n".join(said)


def table(plans: Sequence[Mapping]) -> str:
    """The plans, one in a line, numbered as `--plan` takes them.

    >>> print(aligned([["1*", "bf16 on 1 x A40"], ["12", "x"]]))
    1*  bf16 on 1 x A40
    12  x
    """
    serves = plans[0]["first_token"] is not None
    speed, time = ("tokens/s of a user", "an answer") if serves else ("tokens/s", "the run")
    price = "price of a million tokens" if serves else "price of the run"
    heads = ["", "plan", "nodes", "memory of a GPU", speed, time, price, "sure"]
    return aligned([heads, *(_row(i, plan) for i, plan in enumerate(plans, start=1))])


def _row(number: int, plan: Mapping) -> list[str]:
    memory, speed, price = plan["memory"], plan["speed"], plan["price"]
    low, high = (si(sum(memory["parts"].values()) + reserve, "B") for reserve in memory["reserve"])
    return [
        f"{number}{'*' if plan['pareto'] else ''}",
        plan["name"],
        str(plan["n_nodes"]),
        f"{low} to {high} of {si(memory['limit'], 'B')}",
        f"{span(speed['low'], speed['high'])} (roof {digits(speed['floor'])})",
        duration(plan["seconds"]),
        f"{span(price['low'], price['high'])} {price['unit']}s" if price else "unknown",
        plan["sure"],
    ]


def memory(plan: Mapping) -> str:
    """Memory of a plan's fullest GPU by part, with a bar as long as its limit."""
    parts, limit = plan["memory"]["parts"], plan["memory"]["limit"]
    low, high = plan["memory"]["reserve"]
    bar = "".join(name[0] * round(BAR * n_bytes / limit) for name, n_bytes in parts.items())
    bar += "+" * round(BAR * low / limit) + "?" * round(BAR * (high - low) / limit)
    rows = [[name, si(n_bytes, "B")] for name, n_bytes in parts.items() if n_bytes]
    rows += [["kept by the program", f"{si(low, 'B')} to {si(high, 'B')}"], ["limit", si(limit, "B")]]
    at = f", {plan['memory']['at']}" if plan["memory"]["at"] else ""
    return f"Memory of the fullest GPU{at}, first plan:\n[{bar.ljust(BAR)}]\n{aligned(rows)}"


def section(title: str, lines: Sequence[str]) -> list[str]:
    """A title and a list under it; nothing where there are no lines."""
    return ["", f"{title}:", *(f"- {line}" for line in lines)] if lines else []


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns, as wide as the widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def span(low: float, high: float) -> str:
    """A range to two digits.

    >>> span(10.93, 21.4), span(123456.0, 234567.0)
    ('11 to 21', '120,000 to 230,000')
    """
    return f"{digits(low)} to {digits(high)}"


def digits(value: float) -> str:
    """A number to two digits, without an exponent."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 else f"{rounded:g}"
