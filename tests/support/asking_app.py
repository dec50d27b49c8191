"""The program of an application under test: it asks its sidecar from its first moment on, without retries.

It knows only what injection put into its environment. `REQUESTS`: so many, then it ends with exit code 0; 0:
until SIGTERM, and for `LAST` seconds more. Each request is a JSON line on stdout.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
import urllib.error
import urllib.request

QUESTION = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "How are you?"}]}).encode()
PAUSE = 0.2
end = math.inf
"""When it ends, by the monotonic clock."""


def ask() -> dict[str, object]:
    """Return how one request ended; status 0: without an answer."""
    headers = {
        "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}",
        "Content-Type": "application/json",
    }
    request = urllib.request.Request(  # noqa: S310 - the sidecar's address
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions", data=QUESTION, headers=headers
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            text = json.load(answer)["choices"][0]["message"]["content"]
            return {"status": answer.status, "text": text}
    except urllib.error.HTTPError as error:
        told = {name: error.headers[name] for name in ("retry-after", "x-modelfleet-reason")}
        return {"status": error.code, **told}
    except OSError as error:
        return {"status": 0, "error": repr(error)}


def leave(*_: object) -> None:
    """Go on for a while, as an application that finishes its work."""
    global end
    end = time.monotonic() + float(os.environ.get("LAST", "0"))


def main() -> None:
    signal.signal(signal.SIGTERM, leave)
    wanted = int(os.environ.get("REQUESTS", "0")) or math.inf
    asked = 0
    while asked < wanted and time.monotonic() < end:
        if asked:
            time.sleep(PAUSE)
        leaving = end < math.inf
        print(json.dumps({**ask(), "leaving": leaving}), flush=True)
        asked += 1


main()
