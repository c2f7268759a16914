"""The final examination: twelve questions with numbers over all of the course, drawn by a seed (notebook 17)."""

import math
import random
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..grading import Exercise
from .questions import Question, adapters, busy, saves, states, sums, training, weights
from .serving_questions import decoding, products, quantised, scores, texts

TWELVE = (products, states, weights, training, adapters, decoding, texts, scores, quantised, sums, saves, busy)
WIDTH, INDENT = 84, " " * 4
SEEDS = (2026, 1, 7)  # of the papers that the check takes
PREFIXES = (1000, 1024)


@dataclass(frozen=True)
class Mark:
    """What an answer to a question is worth: right, or not, with the line that says why."""

    right: bool
    line: str


@dataclass(frozen=True)
class Paper:
    """An examination's questions, counted from 1: ``paper[3]["n_layers"]`` is a number that question 3 gives."""

    seed: int
    questions: tuple[Question, ...]

    def __getitem__(self, number: object) -> Question:
        if not isinstance(number, int) or not 1 <= number <= len(self.questions):
            raise IndexError(f"this examination has the questions 1 to {len(self.questions)}, not {number!r}")
        return self.questions[number - 1]

    def __iter__(self):
        return iter(self.questions)

    def __repr__(self) -> str:
        return f"examination({self.seed})"

    def __str__(self) -> str:
        return "\n\n".join(_printed(number, each) for number, each in enumerate(self, 1))

    def marks(self, answers: object) -> dict[int, Mark]:
        """Each question's mark; an answer that is missing, or None, is not answered.

        Raises:
            TypeError, IndexError: no mapping from the number of a question to an answer.
        """
        if not isinstance(answers, Mapping):
            raise TypeError(f"answers are a mapping such as {{1: 2.5e-3}}, not {type(answers).__name__}")
        for number in answers:
            self[number]
        return {number: mark(question, answers.get(number)) for number, question in enumerate(self, 1)}

    def graded(self, answers: object) -> str:
        """The marks as lines to print, with the sum at the end."""
        marks = self.marks(answers)
        lines = [f"{number:2}. {self[number].topic:20}{each.line}" for number, each in marks.items()]
        wrapped = [textwrap.fill(line, WIDTH, subsequent_indent=" " * 24) for line in lines]
        return "\n".join([*wrapped, f"{sum(each.right for each in marks.values())} of {len(marks)} right"])


def examination(seed: int) -> Paper:
    """The paper with that seed: the same on every machine, and with another seed other models, machines and sizes.

    >>> paper = examination(2026)
    >>> paper[6].topic, examination(2026) == paper, examination(1) == paper
    ('speed of decoding', True, False)
    """
    made = []
    for number, question in enumerate(TWELVE, 1):
        draw = _drawer(random.Random(f"{seed}, question {number}"))
        while _forgives(drawn := question(draw)):
            pass
        made.append(drawn)
    return Paper(seed, tuple(made))


def _forgives(question: Question) -> bool:
    """Whether with these numbers a slip gives the right answer, too: then others are drawn."""
    return any(math.isclose(slip, question.right, rel_tol=question.rtol) for slip, _ in question.slips)


def _drawer(numbers: random.Random) -> Callable:
    """Draws one of its arguments; by `random` alone, which gives the same numbers in every version of Python."""
    return lambda *options: options[int(numbers.random() * len(options))]


def mark(question: Question, answer: object) -> Mark:
    """Hold one answer against a question; whatever it is, a mark."""
    if answer is None or answer is Ellipsis:
        return Mark(False, "not answered yet")
    try:
        if isinstance(answer, bool | str):
            raise TypeError
        number = float(answer)
    except (TypeError, ValueError, OverflowError):
        return Mark(False, f"not yet: a number is asked for, not {type(answer).__name__}")
    if math.isclose(number, question.right, rel_tol=question.rtol):
        return Mark(True, "correct")
    return Mark(False, f"not yet. {_hint(question, number)}")


def _hint(question: Question, number: float) -> str:
    hints = [hint for slip, hint in question.slips if math.isclose(number, slip, rel_tol=question.rtol)]
    if hints:  # of several slips that give this number, nobody knows which it was
        return " Or: ".join(hints)
    for prefix in PREFIXES:
        for power in (-4, -3, -2, -1, 1, 2, 3, 4):
            if math.isclose(number, question.right * prefix**power, rel_tol=question.rtol):
                return f"The digits are right, the size is not: the unit is {question.unit}, without k, M or G."
    if not number > 0:
        return "The answer is a number above zero."
    size = "smaller" if number > question.right else "larger"
    return f"The right answer is {size}. See notebook {question.notebooks}."


def _printed(number: int, question: Question) -> str:
    given = ", ".join(f"{name}={_plain(value)}" for name, value in question.given.items())
    asked = textwrap.fill(f"{number:2}. {question.text}", WIDTH, subsequent_indent=INDENT)
    given = textwrap.fill(f"{given}; answer in {question.unit}", WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    return f"{asked}\n{given}"


def _plain(value: float) -> str:
    if isinstance(value, bool):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if 1e3 <= value < 1e7 else f"{value:g}"


def _rule(answers: object, paper: Paper) -> str:
    """What keeps a whole examination from being right: how many are, and the first that is not, with its hint."""
    if not isinstance(answers, Mapping):
        return "return a dict: the number of each question, and your answer, such as {1: 2.5e-3}"
    try:
        marks = paper.marks(answers)
    except IndexError as error:
        return str(error)
    wrong = {number: each for number, each in marks.items() if not each.right}
    if not wrong:
        return ""
    number, first = next(iter(wrong.items()))
    return f"{len(marks) - len(wrong)} of {len(marks)} right; question {number}: {first.line}"


EXERCISES = [
    Exercise(
        name="twelve_answers",
        cases=[(examination(seed),) for seed in SEEDS],
        right=lambda paper: {number: each.right for number, each in enumerate(paper, 1)},
        rule=_rule,
    )
]
