"""A model server that answers every kind of call at once, and keeps what it was sent byte for byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

INPUT, OUTPUT = 3, 2
"""Tokens that an answer says it used."""
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
EMBEDDINGS, RESPONSES = "/v1/embeddings", "/v1/responses"
USAGE = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "ok"}]}],
    "usage": {"input_tokens": INPUT, "output_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT},
}
ANSWERS: Mapping[str, Mapping[str, object]] = {
    CHAT: {
        "id": "c-1",
        "model": "as the server says",
        "choices": [{"index": 0, "message": {"content": "ok"}, "finish_reason": "stop"}],
        "usage": USAGE,
    },
    COMPLETIONS: {
        "id": "c-1",
        "choices": [{"index": 0, "text": "ok", "finish_reason": "stop"}],
        "usage": USAGE,
    },
    EMBEDDINGS: {
        "object": "list",
        "data": [{"index": 0, "embedding": [0.5, 0.25]}],
        "usage": {"prompt_tokens": INPUT, "total_tokens": INPUT},
    },
    RESPONSES: RESPONSE,
}
EVENTS: Mapping[str, tuple[bytes, ...]] = {
    CHAT: (
        b'data: {"choices":[{"index":0,"delta":{"content":"ok"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n",
        b"data: [DONE]\n\n",
    ),
    COMPLETIONS: (
        b'data: {"choices":[{"index":0,"text":"ok","finish_reason":null}]}\n\n',
        b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n",
        b"data: [DONE]\n\n",
    ),
    RESPONSES: (
        b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1"}}\n\n',
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"ok"}\n\n',
        b"event: response.completed\ndata: "
        + json.dumps({"type": "response.completed", "response": RESPONSE}).encode()
        + b"\n\n",
    ),
}


@dataclass(slots=True)
class Recorded:
    """What the server was sent, newest last."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)

    @property
    def fields(self) -> dict[str, object]:
        """Return the newest body's."""
        fields = json.loads(self.bodies[-1])
        assert isinstance(fields, dict)
        return fields


@asynccontextmanager
async def recorder() -> AsyncIterator[Recorded]:
    """Serve on loopback."""
    recorded = Recorded()

    async def serve(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        recorded.paths.append(request.path)
        recorded.bodies.append(body)
        recorded.headers.append({name.lower(): value for name, value in request.headers.items()})
        if json.loads(body).get("stream") is True:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            for event in EVENTS[request.path]:
                await response.write(event)
            return response
        return web.json_response(ANSWERS[request.path])

    app = web.Application(client_max_size=64 * 1024 * 1024)
    for path in ANSWERS:
        app.router.add_post(path, serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    recorded.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield recorded
    finally:
        await runner.cleanup()
