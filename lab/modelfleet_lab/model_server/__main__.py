"""`modelfleet-model-server`: one simulated model server as a program.

In: flags. Out: an HTTP server until SIGTERM or SIGINT; then it ends what is in flight and exits.
Next: any OpenAI client.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

import uvloop
from modelfleet_core.catalog import Pricing

from modelfleet_lab.model_server.answers import read_answers
from modelfleet_lab.model_server.latency import parse_latency
from modelfleet_lab.model_server.server import ModelServer, ServerSettings

FEMTO_PER_TOKEN = 1_000_000_000
"""Femto-USD per token of 1 USD per million tokens."""
EXAMPLES = """examples:
  modelfleet-model-server --listen 127.0.0.1:8000 --model llama-8b --latency ttft=120,per_token=8
  modelfleet-model-server --model llama-8b --answers answers.jsonl --pricing 0.10,0.40 --log requests.jsonl
  curl -s 127.0.0.1:8000/admin/faults -d '{"faults": [{"kind": "rate_limit", "seconds": 2, "count": 3}]}'
"""


def parse_pricing(text: str) -> Pricing:
    """Return the price written as `IN,OUT`, USD per million tokens; raise ValueError."""
    try:
        price_in, price_out = (Decimal(part) for part in text.split(","))
    except (InvalidOperation, ValueError) as error:
        raise ValueError(
            f"pricing {text!r} is not IN,OUT in USD per million tokens, such as 0.10,0.40"
        ) from error
    if min(price_in, price_out) < 0:
        raise ValueError(f"pricing {text!r} is negative")
    return Pricing(int(price_in * FEMTO_PER_TOKEN), int(price_out * FEMTO_PER_TOKEN))


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{text!r} is no HOST:PORT")
    return host.strip("[]"), int(port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modelfleet-model-server",
        description="A simulated, OpenAI-compatible model server.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    here = f"{os.environ.get('POD_IP', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
    parser.add_argument("--listen", default=here, metavar="HOST:PORT", help="default: $POD_IP:$PORT")
    parser.add_argument("--model", required=True, help="served name")
    parser.add_argument("--concurrency", type=int, default=8, help="requests that run at once (default 8)")
    parser.add_argument(
        "--latency",
        default="",
        metavar="SPEC",
        help="milliseconds when idle, and growth with load: ttft=200,per_token=15,prefill=0,load=1",
    )
    parser.add_argument(
        "--answers", type=Path, metavar="FILE", help="JSON lines: sha256, answer, output_tokens"
    )
    parser.add_argument("--pricing", default="0,0", metavar="IN,OUT", help="USD per million tokens")
    parser.add_argument("--startup", type=float, default=0.0, metavar="SECONDS", help="until /health is 200")
    parser.add_argument("--time-scale", type=float, default=1.0, help="real seconds per simulated second")
    parser.add_argument("--chunk-seconds", type=float, default=0.05, help="streamed tokens go out this often")
    parser.add_argument("--seed", type=int, default=0, help="of faults that strike by chance")
    parser.add_argument("--api-key", default="", metavar="KEY", help="ask for this key, as external APIs do")
    parser.add_argument(
        "--log",
        type=Path,
        metavar="PATH",
        help="append a JSON line for each request; a folder: to $POD_NAME.jsonl in it",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run until a signal; return the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    name = os.environ.get("POD_NAME") or f"{options.model}-{options.listen}".replace("/", "-")
    log = options.log / f"{name}.jsonl" if options.log is not None and options.log.is_dir() else options.log
    try:
        host, port = _address(options.listen)
        settings = ServerSettings(
            model=options.model,
            concurrency=options.concurrency,
            latency=parse_latency(options.latency),
            answers=read_answers(options.answers) if options.answers is not None else {},
            pricing=parse_pricing(options.pricing),
            startup=options.startup,
            time_scale=options.time_scale,
            chunk_seconds=options.chunk_seconds,
            seed=options.seed,
            name=name,
            log=log,
            api_key=options.api_key,
        )
        if settings.concurrency < 1:
            raise ValueError(f"--concurrency {settings.concurrency} is below 1")
        return uvloop.run(_run(settings, host, port))
    except (ValueError, OSError) as error:
        parser.exit(2, f"modelfleet-model-server: {error}\n")


async def _run(settings: ServerSettings, host: str, port: int) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = ModelServer(settings)
    try:
        bound = await server.start(host, port)
    except OSError as error:
        raise OSError(
            f"--listen {host}:{port} can not be listened on: the port is taken or not ours; use another port"
        ) from error
    sys.stdout.write(f"{settings.name} serves {settings.model} on {host}:{bound}\n")
    sys.stdout.flush()
    await stopping.wait()
    await server.stop(grace=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
