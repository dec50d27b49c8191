"""Whatever answers in the API server's place, the operator sees no more than an outage."""

from __future__ import annotations

from typing import cast

import pytest
from kubernetes.aio import client
from modelfleet_operator.cluster import Unavailable
from modelfleet_operator.cluster.transport import Body, Transport


class _Answer:
    status = 200

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self) -> bytes:
        return self._content


class _Proxied(Transport):
    """A way to an API server on which something answers with `content`."""

    def __init__(self, content: bytes) -> None:
        super().__init__(cast(client.ApiClient, None))
        self._content = content

    async def _send(self, *_: str | float | Body | None) -> client.rest.RESTResponse:
        return cast(client.rest.RESTResponse, _Answer(self._content))


@pytest.mark.parametrize("content", [b"<html>sign in</html>", b"", b'{"kind": ', b"\xff\xfe", b"[" * 100_000])
async def test_an_answer_that_is_no_json_counts_as_an_outage(content: bytes) -> None:
    with pytest.raises(Unavailable, match="no JSON"):
        await _Proxied(content).request("GET", "/api/v1/nodes")
