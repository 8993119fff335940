"""`serve`: answers over HTTP with the model of a run or an export."""

from importlib.util import find_spec

from sft_lightning.cli.parser import Parser
from sft_lightning.core.errors import UserError

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def make_parser() -> Parser:
    """Builds the parser of `serve`."""
    parser = Parser(
        "serve",
        description="Answer over HTTP with the model of a finished run or an export: texts, images or sounds in, what predict "
        "writes out. POST /predict, GET /model, /health, /ready, /metrics, /openapi.json, and a page to try it at /.",
    )
    parser.add_argument("run", metavar="RUN", help="a finished run's directory, an export, or a hub's name")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default 8000; 0 for any free one")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1, this machine alone")
    parser.add_argument("--max_batch", type=int, default=32, metavar="N", help="most samples of a batch; default 32")
    parser.add_argument(
        "--max_wait_ms",
        type=float,
        default=5.0,
        metavar="N",
        help="milliseconds that a sample waits for others; default 5",
    )
    parser.add_argument(
        "--max_bytes",
        type=int,
        metavar="N",
        help="most bytes of a request; default 1 MiB for texts, 128 KiB to tag, 16 MiB for images and sounds",
    )
    parser.add_argument("--timeout_s", type=float, default=30.0, metavar="N", help="seconds for a request; default 30")
    parser.add_argument(
        "--max_queue",
        type=int,
        default=1024,
        metavar="N",
        help="most samples that wait, and most of a request; default 1024",
    )
    parser.add_argument(
        "--precision",
        choices=["32", "bf16"],
        default="32",
        help="numbers to compute with; default 32, single precision. bf16 is faster where the processor has it, and changes "
        "the third digit of probabilities",
    )
    return parser


def main(arguments: list[str]) -> int:
    """Runs `serve` until a signal. Returns 0, or raises UserError."""
    given = make_parser().parse_args(arguments)
    for option, least, most in (
        ("port", 0, 65535),
        ("max_batch", 1, 1 << 16),
        ("max_wait_ms", 0, 60_000),
        ("max_bytes", 1, 1 << 31),
        ("timeout_s", 0.001, 86_400),
        ("max_queue", 1, 1 << 20),
    ):
        value = getattr(given, option)
        if value is not None and not least <= value <= most:
            raise UserError(f"--{option}", f"must be {least} to {most}, got {value}")
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError("serve", f"needs {', '.join(missing)}", "pip install 'sft-lightning[serve]'")
    from sft_lightning.cli.quiet import quieten
    from sft_lightning.serve.app import Limits
    from sft_lightning.serve.server import serve

    quieten()
    limits = Limits(given.max_batch, given.max_wait_ms, given.max_bytes, given.timeout_s, given.max_queue)
    serve(given.run, given.host, given.port, limits, half=given.precision == "bf16")
    return 0
