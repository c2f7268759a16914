"""``llmhw-plan``: on how many of which cards does a model run, in which format, how fast, and for how much?

Three words give a first answer: the model, the task and the place. All else has its usual value.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..commands import Parser, put_out
from ..costs.planner import answer
from ..costs.requests import FIELDS, METHODS, TASKS
from ..specs.json_text import parse_json, read_file
from .scripts import BadPlan, job_script, vllm_command
from .tables import report

EXAMPLES = """examples:
  llmhw-plan Llama-3.1-70B serve Alvis
  llmhw-plan Llama-3.1-8B serve "2 x RTX 3090" --prompt 8000 --users 4
  llmhw-plan ./config.json serve A100-80GB --formats int4
  llmhw-plan Llama-3.1-8B fine-tune "Alvis A40" --method qlora --script
"""
HELP = {
    "n_gpus": "the most GPUs of a cluster; how many cards there are, where the place names no number",
    "formats": "of the weights, such as bf16 int8 int4 'AWQ int4'",
    "max_loss": "quality that may be lost: 0.03 is 3%%",
    "prompt": "tokens of a question",
    "answer": "tokens of an answer",
    "users": "answers that are written at the same time",
    "tokens_per_s": "wished for each user; 0 for any speed",
    "first_token_s": "seconds until the first token of an answer, at most",
    "utilisation": "share of a GPU's memory that the server may use",
    "seq_len": "tokens of a training text",
    "batch_tokens": "tokens of an optimizer step, on all GPUs together",
    "n_tokens": "tokens of the whole run",
    "days": "that training may take, at most",
    "method": "of fine-tuning",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status: 0, or 1 where nothing does."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        request = _request(options)
    except (OSError, ValueError) as error:
        print(f"llmhw-plan: {error}", file=sys.stderr)
        return 1
    said = answer(request)
    if options.json:
        return put_out(parser.prog, json.dumps(said, indent=1)) or (0 if said["ok"] else 1)
    if not said["ok"]:
        print(f"llmhw-plan: {report(said)}", file=sys.stderr)
        return 1
    if not (options.script or options.vllm):
        return put_out(parser.prog, report(said, options.rows, options.sources))
    if not 1 <= options.plan <= len(said["plans"]):
        print(f"llmhw-plan: there are {len(said['plans'])} plans, and no number {options.plan}", file=sys.stderr)
        return 1
    write = job_script if options.script else vllm_command
    try:
        written = write(request, said["plans"][options.plan - 1])
    except BadPlan as error:
        print(f"llmhw-plan: {error}", file=sys.stderr)
        return 1
    return put_out(parser.prog, written)


def _request(options: argparse.Namespace) -> dict:
    """What `answer` takes: a model that is a file is read."""
    model = options.model
    if model.endswith(".json"):
        try:
            model = parse_json(read_file(Path(model)))
        except ValueError as error:
            raise ValueError(f"{model}: not JSON ({error})") from None
    said = {"model": model, "task": options.task, "where": options.where}
    return said | {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}


def _parser() -> Parser:
    parser = Parser(
        prog="llmhw-plan",
        description=__doc__.partition("\n")[0].partition(": ")[2],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", help="a name, or the path of a config.json")
    add("task", choices=TASKS)
    add(
        "where",
        help="a cluster, a cluster and one of its cards, or cards: Alvis, 'Alvis A40', '2 x RTX 3090, A100-80GB'",
    )
    for name, (kind, *_, tasks) in FIELDS.items():
        of = "" if len(tasks) == len(TASKS) else f" ({' and '.join(tasks)})"
        extra = {"nargs": "+"} if name == "formats" else {"choices": METHODS} if name == "method" else {}
        if kind:
            extra = {"type": _number, "metavar": "N"}
        add(f"--{name.replace('_', '-')}", help=HELP[name] + of, **extra)
    add("--rows", type=_rows, default=8, metavar="N", help="plans in the table")
    add("--sources", action="store_true", help="name the sources of the first plan's figures")
    one = parser.add_mutually_exclusive_group().add_argument
    one("--json", action="store_true", help="the whole answer, for programs")
    one("--script", action="store_true", help="a job script for the first plan (or that of --plan)")
    one("--vllm", action="store_true", help="the vLLM command line alone")
    add("--plan", type=int, default=1, metavar="N", help="number of the plan that --script and --vllm are for")
    return parser


def _number(said: str) -> float | int:
    """A number as it is written; its bounds are the planner's to check."""
    try:
        return int(said)
    except ValueError:
        pass
    try:
        return float(said)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{said!r} is no number") from None


def _rows(said: str) -> int:
    if not said.isdecimal() or int(said) < 1:
        raise argparse.ArgumentTypeError(f"{said!r} is no number of rows: one at least")
    return int(said)


if __name__ == "__main__":
    sys.exit(main())
