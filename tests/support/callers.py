"""Callers of a sidecar, streamed and whole, over HTTP and gRPC, who say alike what became of their calls."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from modelfleet.v1 import router_pb2, router_pb2_grpc

from support.sidecars import Rig

ASKED: Mapping[str, object] = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Told:
    """What one caller was told of its call."""

    content: str
    reason: str
    """Empty: it ended well."""
    status: int | str
    """HTTP's or gRPC's code; of an error event its type."""
    attempts: int
    decision_id: str
    retry_after: float | None = None


class Way(NamedTuple):
    """How a caller asks."""

    stream: bool
    grpc: bool

    def __str__(self) -> str:
        return f"{'gRPC' if self.grpc else 'HTTP'}, {'streamed' if self.stream else 'whole'}"


@dataclass(frozen=True, slots=True)
class Caller:
    """One application before a sidecar."""

    http: aiohttp.ClientSession
    stub: router_pb2_grpc.RouterStub
    heard: Callable[[], None]
    """Called when a streamed answer's first content has come."""

    async def ask(self, way: Way) -> Told:
        """Ask once, to the end."""
        asked: Mapping[Way, Callable[[], Awaitable[Told]]] = {
            Way(False, False): self._http_whole,
            Way(True, False): self._http_stream,
            Way(False, True): self._grpc_whole,
            Way(True, True): self._grpc_stream,
        }
        return await asked[way]()

    async def _http_whole(self) -> Told:
        async with self.http.post(CHAT, json=ASKED) as response:
            body = await response.read()
        if response.status != 200:
            return _refused(response, body)
        content = "".join(choice["message"]["content"] for choice in json.loads(body)["choices"])
        return Told(content, "", 200, *_named(response.headers))

    async def _http_stream(self) -> Told:
        async with self.http.post(CHAT, json={**ASKED, "stream": True}) as response:
            body = b""
            async for data in response.content.iter_any():
                body += data
                if stream_start(body):
                    self.heard()
        if response.status != 200:
            return _refused(response, body)
        content, error = stream_of(body)
        if error is None:
            return Told(content, "", 200, *_named(response.headers))
        return Told(content, error["code"], error["type"], *_named(response.headers))

    async def _grpc_whole(self) -> Told:
        call = self.stub.Complete(request())
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            return _status(error, "")
        return Told(answer.content, "", "OK", *_named(dict(await call.initial_metadata() or ())))

    async def _grpc_stream(self) -> Told:
        call = self.stub.Chat(request())
        content = ""
        try:
            async for chunk in call:
                content += chunk.content
                if content:
                    self.heard()
            return Told(content, "", "OK", *_named(dict(await call.initial_metadata() or ())))
        except grpc.aio.AioRpcError as error:
            return _status(error, content)
        finally:
            call.cancel()  # the library goes on holding calls whose messages nobody reads to the end


WAYS = tuple(Way(stream, over_grpc) for stream in (False, True) for over_grpc in (False, True))


@asynccontextmanager
async def caller_of(rig: Rig, heard: Callable[[], None] = lambda: None) -> AsyncIterator[Caller]:
    async with (
        aiohttp.ClientSession(rig.http, connector=aiohttp.TCPConnector(limit=0)) as http,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        yield Caller(http, router_pb2_grpc.RouterStub(channel), heard)


def request() -> router_pb2.ChatRequest:
    return router_pb2.ChatRequest(messages=[router_pb2.Message(role="user", content="hello")])


def stream_start(body: bytes) -> bool:
    """Return whether any content of a stream has come."""
    return re.search(rb'"content": ?"[^"]', body) is not None


def stream_of(body: bytes) -> tuple[str, dict[str, str] | None]:
    """Return a stream's content and its error, None: it ended well; it must have one end, the last event."""
    *events, rest = body.decode().split("\n\n")
    assert rest == "", "the last event is whole"
    content, ends = "", []
    for number, event in enumerate(events):
        payload = event.removeprefix("data: ")
        chunk = {} if payload == "[DONE]" else json.loads(payload)
        if payload == "[DONE]" or "error" in chunk:
            ends.append((number, chunk.get("error")))
        for choice in chunk.get("choices", ()):
            content += choice["delta"].get("content", "")
    ((number, error),) = ends
    assert number == len(events) - 1
    return content, error


def _refused(response: aiohttp.ClientResponse, body: bytes) -> Told:
    wait = response.headers.get("retry-after")
    named = _named(response.headers)
    reason = json.loads(body)["error"]["code"]
    return Told("", reason, response.status, *named, None if wait is None else float(wait))


def _named(headers: Mapping[str, object]) -> tuple[int, str]:
    return int(str(headers["x-modelfleet-attempts"])), str(headers["x-modelfleet-decision-id"])


def _status(error: grpc.aio.AioRpcError, content: str) -> Told:
    info, wait = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    status = rpc_status.from_call(error)
    assert status is not None, error
    status.details[0].Unpack(info)
    pause = None
    if len(status.details) > 1:
        status.details[1].Unpack(wait)
        pause = wait.retry_delay.ToNanoseconds() / 1e9
    attempts, decision = int(info.metadata["attempts"]), info.metadata["decision_id"]
    return Told(content, info.reason, error.code().name, attempts, decision, pause)
