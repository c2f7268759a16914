"""What ``llmhw-serve`` may be told on its command line."""

import argparse
import math
from collections.abc import Callable

import torch

from ..commands import Parser
from .listening import LOCAL

PROGRAM = "llmhw-serve"
DTYPES = {"float32": ("fp32", torch.float32), "bfloat16": ("bf16", torch.bfloat16)}
KV_GB = 2  # of keys and values on the disk


def new_parser() -> Parser:
    """The command's parser."""
    parser = Parser(
        prog=PROGRAM,
        description="Serve the course's model (or the one that LLMHW_MODEL names) to any client that speaks to OpenAI: "
        "/v1/completions, /v1/chat/completions, /v1/models; /metrics is for a Prometheus. "
        "Give the client the URL that is printed as its base_url, "
        "and anything as its key.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    count = _at_least(1)
    add = parser.add_argument
    add("--port", type=_at_least(0, 65535), default=8000, help="where to listen; 0 takes a free one")
    add("--host", default=LOCAL, help="for whom: by default for this machine alone")
    add("--n-blocks", type=count, default=512, help="blocks of the KV cache")
    add("--block-size", type=count, default=16, help="tokens in a block")
    add("--kv-dir", metavar="DIR", help="keep blocks that leave the cache here, and find them after a restart")
    add(
        "--kv-gb",
        type=_gigabytes,
        default=argparse.SUPPRESS,
        metavar="GB",
        help=f"what they may take there; those unused for longest are deleted (default: {KV_GB})",
    )
    add("--max-batch-size", type=count, default=8, help="answers that are written at the same time")
    add("--max-open", type=count, default=64, help="answers that are written or waited for, before others are refused")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="by which clients may call the server, besides localhost; with --host, any will do unless some are given",
    )
    add(
        "--grace",
        type=_at_least(0),
        default=30,
        metavar="SECONDS",
        help="what open answers have when SIGTERM or SIGHUP comes",
    )
    add("--dtype", choices=DTYPES, default="float32", help="of the weights and the cache")
    add(
        "--weights",
        choices=["loaded", "file"],
        default="loaded",
        help="loaded into memory in --dtype, or used where they lie in a GGUF file, as small as they are there",
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=["cpu", "cuda"], default=device, help="where the model computes")
    add(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="decode with one compiled program a step, on a CPU (default: where it can be compiled, unless the "
        "environment has LLMHW_COMPILED=0)",
    )
    add("--threads", type=count, default=torch.get_num_threads(), help="threads that share a product on a CPU")
    return parser


def _at_least(low: int, high: int | None = None) -> Callable[[str], int]:
    def whole(said: str) -> int:
        number = int(said) if said.isascii() and said.lstrip("-").isdigit() else None
        if number is None or number < low or (high is not None and number > high):
            allowed = f"from {low} to {high}" if high is not None else f"of at least {low}"
            raise argparse.ArgumentTypeError(f"{said} is no whole number {allowed}")
        return number

    return whole


def _gigabytes(said: str) -> float:
    try:
        number = float(said)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{said} is no number of GB above 0")
    return number
