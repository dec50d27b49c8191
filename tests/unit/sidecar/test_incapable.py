"""What a server says that it can not do at all is told from what it finds wrong with one request."""

from __future__ import annotations

import json

import pytest
from modelfleet_core.values import ModelName, VariantKey
from modelfleet_sidecar import chat, embeddings, responses
from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.incapable import LASTS, Incapable, lacking

PLAIN = {"messages": [{"role": "user", "content": "m does not support tools"}]}
TOOLS = chat.parse_fields(PLAIN | {"tools": [{"type": "function", "function": {"name": "f"}}]})
PIXEL = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}
SEEN = chat.parse_fields({"messages": [{"role": "user", "content": [PIXEL]}]})
CHAT = chat.parse_fields(PLAIN)
EMBEDS = embeddings.parse_json(b'{"input": "a"}')
RESPONDS = responses.parse_json(b'{"input": "a"}')
STORED = responses.parse_json(json.dumps({"input": "a", "previous_response_id": "resp_1"}).encode())
V = VariantKey(ModelName("m"), "gpu")


@pytest.mark.parametrize(
    ("call", "status", "said", "lacks"),
    [
        (TOOLS, 400, "registry.ollama.ai/library/gemma3:4b does not support tools", "tools"),
        (
            TOOLS,
            400,
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
            "tools",
        ),
        (SEEN, 500, "image input is not supported - hint: you may need to provide the mmproj", "vision"),
        (EMBEDS, 501, "This server does not support embeddings. Start it with `--embeddings`", "embeddings"),
        (EMBEDS, 404, "no reason given", "embeddings"),
        (RESPONDS, 404, "File Not Found", "responses"),
        (RESPONDS, 405, "Method Not Allowed", "responses"),
        # Not needed, or said of the request, which it may quote.
        (CHAT, 400, "m does not support tools", ""),
        (TOOLS, 400, "tools[0].name: 'm does not support tools' is no name", ""),
        (SEEN, 400, "unsupported image format", ""),
        # It may be the model that is not there, the whole server, or what was stored.
        (EMBEDS, 404, "The model `m` does not exist.", ""),
        (CHAT, 404, "no reason given", ""),
        (STORED, 404, "Previous response with id 'resp_1' not found.", ""),
        (RESPONDS, 500, "no reason given", ""),
    ],
)
def test_only_what_a_server_says_of_itself_is_a_lack(call: Call, status: int, said: str, lacks: str) -> None:
    assert lacking(call, status, said) == lacks


def test_a_lack_is_remembered_for_a_while_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    known = Incapable(lambda: now)
    assert known.lacks() == {}
    known.refused(V, "tools")
    known.refused(V, "tools")
    known.refused(V, "vision")
    assert known.lacks() == {V: {"tools", "vision"}}
    assert ["has no tools" in line for line in caplog.messages] == [True, False]
    assert "take that off the capabilities of the model" in caplog.text
    now = LASTS
    assert known.lacks() == {}
