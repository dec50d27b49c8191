"""The sidecar's gRPC requests, serialised for the load generator."""

from __future__ import annotations

from modelfleet.v1 import router_pb2

from benchmarks.peers.prompts import SYSTEM

SERVICE = "modelfleet.v1.Router"


def chat_message(text: str) -> bytes:
    """Return a ChatRequest."""
    return _chat(text).SerializeToString()


def route_message(text: str) -> bytes:
    """Return a RouteRequest."""
    return router_pb2.RouteRequest(chat=_chat(text)).SerializeToString()


def _chat(text: str) -> router_pb2.ChatRequest:
    return router_pb2.ChatRequest(
        model="auto",
        messages=[
            router_pb2.Message(role="system", content=SYSTEM),
            router_pb2.Message(role="user", content=text),
        ],
        max_output_tokens=200,
    )
