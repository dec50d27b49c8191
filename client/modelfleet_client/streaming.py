"""What a stream has said so far, gathered piece by piece.

In: chunks that `client` and `aio` read. Out: pieces, and what is known at the end.
"""

from __future__ import annotations

from modelfleet.v1 import router_pb2

from modelfleet_client.values import NANO, Decision, Piece, ToolCall, Usage
from modelfleet_client.wire import decision, piece, usage_of


class Said:
    """One answer as it comes. Usage and cost are there once it has come to its end."""

    def __init__(self, first: router_pb2.ChatChunk) -> None:
        self.decision: Decision = decision(first.decision)
        self.finish_reason = ""
        self.usage: Usage | None = None
        """None: the stream is not at its end."""
        self.cost_nano_usd: int | None = None
        self._calls: dict[int, tuple[str, str, list[str]]] = {}

    @property
    def cost_usd(self) -> float | None:
        return None if self.cost_nano_usd is None else self.cost_nano_usd * NANO

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that the model wants, whole once the stream is at its end."""
        return tuple(
            ToolCall(name_and[0], name_and[1], "".join(name_and[2]))
            for _, name_and in sorted(self._calls.items())
        )

    def hear(self, chunk: router_pb2.ChatChunk) -> Piece | None:
        """Take note of a chunk; return what it says, None: nothing but figures."""
        if chunk.HasField("usage"):
            self.usage = usage_of(chunk.usage)
            self.cost_nano_usd = chunk.cost_nano_usd
        said = piece(chunk)
        self.finish_reason = said.finish_reason or self.finish_reason
        for call in said.tool_calls:
            known = self._calls.get(call.index, ("", "", []))
            known[2].append(call.arguments)
            self._calls[call.index] = (known[0] or call.id, known[1] or call.name, known[2])
        return said if said != Piece() else None
