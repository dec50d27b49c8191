"""An application under test: asks its sidecar without retries and writes how each request ended.

It knows nothing of the product but what injection put into its environment. `CLIENT` is `openai` (the plain
client) or `grpc`; `WORKERS` ask one request after another with `PAUSE` seconds between them, `REQUESTS` each
(0: until SIGTERM). Each outcome is a JSON line on stdout, and in the folder `OUTCOMES`. Where there is no
sidecar, the file `TOKEN` has what `openai` sends as API key.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

DEADLINE = 40.0
stop = threading.Event()


def openai_answers() -> Iterator[tuple[str, str, str]]:
    """Yield how requests end: ending, detail, decision."""
    import openai

    token = os.environ.get("TOKEN")
    key = Path(token).read_text if token else None  # asked for each request, since a token is renewed
    client = openai.OpenAI(api_key=key, max_retries=0, timeout=DEADLINE)
    while True:
        decision, seen, finished = "", False, False
        try:
            raw = client.chat.completions.with_raw_response.create(
                model="auto", messages=[{"role": "user", "content": "How are you?"}], stream=True
            )
            decision = raw.headers.get("x-modelfleet-decision-id", "")
            for chunk in raw.parse():
                for choice in chunk.choices:
                    seen = seen or bool(choice.delta.content)
                    finished = finished or choice.finish_reason is not None
            yield ("answered", "", decision) if finished else ("lost", "no end of the stream", decision)
        except openai.APIStatusError as error:
            yield "refused", f"{error.status_code} {error.code}: {error.message}", decision
        except openai.APIConnectionError as error:
            yield "lost", f"{type(error).__name__}: {error.__cause__!r}", decision
        except openai.APIError as error:
            yield ("cut" if seen else "refused"), f"{error.code}: {error.message}", decision
        except Exception as error:  # noqa: BLE001 - whatever else ends a request is a lost one
            yield "lost", f"{type(error).__name__}: {error}", decision


def grpc_answers() -> Iterator[tuple[str, str, str]]:
    """Yield how requests end: ending, detail, decision."""
    import grpc
    from modelfleet.v1 import router_pb2, router_pb2_grpc

    router = router_pb2_grpc.RouterStub(grpc.insecure_channel(os.environ["MODELFLEET_ADDRESS"]))
    request = router_pb2.ChatRequest(messages=[router_pb2.Message(role="user", content="How are you?")])
    while True:
        decision, seen, finished = "", False, False
        try:
            for chunk in router.Chat(request, timeout=DEADLINE):
                decision = chunk.decision.decision_id or decision
                seen = seen or bool(chunk.content)
                finished = finished or bool(chunk.finish_reason)
            yield ("answered", "", decision) if finished else ("lost", "no end of the stream", decision)
        except grpc.RpcError as error:
            detail = f"{error.code().name}: {error.details()}"
            explained = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
            ending = "lost" if not explained else "cut" if seen else "refused"
            yield ending, detail, decision


def work(number: int, write: threading.Lock, file: Path | None) -> None:
    answers = {"openai": openai_answers, "grpc": grpc_answers}[os.environ["CLIENT"]]()
    wanted = int(os.environ.get("REQUESTS", "0"))
    asked = 0
    while not stop.is_set() and (wanted == 0 or asked < wanted):
        started = time.time()
        ending, detail, decision = next(answers)
        asked += 1
        line = json.dumps(
            {
                "worker": number,
                "start": started,
                "end": time.time(),
                "ending": ending,
                "detail": detail,
                "decision": decision,
            }
        )
        with write:
            print(line, flush=True)
            if file is not None:
                with file.open("a") as output:
                    output.write(line + "\n")
        stop.wait(float(os.environ.get("PAUSE", "0")))


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    folder = os.environ.get("OUTCOMES")
    file = Path(folder, f"{os.environ['HOSTNAME']}.jsonl") if folder else None
    write = threading.Lock()
    workers = [
        threading.Thread(target=work, args=(number, write, file))
        for number in range(int(os.environ.get("WORKERS", "1")))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        while worker.is_alive():
            worker.join(0.1)  # a plain join would keep SIGTERM waiting
    return 0


if __name__ == "__main__":
    sys.exit(main())
