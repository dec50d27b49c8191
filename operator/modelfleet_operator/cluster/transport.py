"""Speaks HTTP with an API server: raw JSON objects in and out, one error for each way to fail.

In come paths and bodies from `kubernetes` and `node`; out go objects as the server wrote them. The official
client brings connection, trust and credentials; its typed models are not used, since they would lose fields.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Literal

import aiohttp
from kubernetes.aio import client

from modelfleet_operator.cluster import ClusterError, Conflict, Forbidden, NotFound, Rejected, Unavailable
from modelfleet_operator.cluster.credentials import credentials
from modelfleet_operator.cluster.fields import text

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
_JSON = "application/json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Body = Mapping[str, object] | list[Mapping[str, object]]
REQUEST_SECONDS = 10.0
TURNS_SECONDS = 0.05
"""TLS connections end in the turns of the loop after they were closed, not at once."""
WATCH_SECONDS = 300.0
"""How long one watch lasts before it is asked anew, so that a silently dead connection is not kept."""


class Transport:
    """Requests to one API server; made by `connect`, ended by `close`."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api

    @classmethod
    async def connect(cls, kubeconfig: str | None = None) -> Transport:
        """Reach the API server that `credentials` finds. Raises `Unavailable` when there are none."""
        return cls(client.ApiClient(await credentials(kubeconfig)))

    async def close(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]
        await asyncio.sleep(TURNS_SECONDS)

    async def request(
        self,
        method: Method,
        path: str,
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
    ) -> Mapping[str, object]:
        """Return the object that the API server answers with, in the form that `accept` names.

        Raises `NotFound`, `Conflict`, `Rejected` (with its message) or `Unavailable`.
        """
        response = await self._send(method, path, body, query, content_type, accept, REQUEST_SECONDS)
        try:
            content = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"{method} {path}: {_cause(error)}") from error
        if response.status >= 400:
            raise _error(response.status, content, f"{method} {path}")
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Unavailable(f"{method} {path}: answered with no JSON, as a proxy does") from error
        return answer if isinstance(answer, Mapping) else {}

    async def watch(
        self, path: str, resource_version: str
    ) -> AsyncIterator[tuple[str, Mapping[str, object]]]:
        """Yield event types and objects after `resource_version` until the watch ends, as all watches do.

        Raises `Unavailable`, and `Conflict` when the version is too old: then list again.
        """
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": f"{WATCH_SECONDS:.0f}",
        }
        response = await self._send("GET", path, None, query, _JSON, _JSON, WATCH_SECONDS + 10)
        raw = response.response
        try:
            if raw.status >= 400:
                raise _error(raw.status, await raw.read(), f"watch of {path}")
            async for line in raw.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Conflict(f"watch of {path}: {text(event['object'], 'message')}")
                yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"watch of {path}: {_cause(error)}") from error
        finally:
            raw.close()

    async def _send(
        self,
        method: Method,
        path: str,
        body: Body | None,
        query: Mapping[str, str] | None,
        content_type: str,
        accept: str,
        seconds: float,
    ) -> client.rest.RESTResponse:
        request = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": accept, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        method_, url, headers, payload, _ = request
        try:
            return await self._api.call_api(
                method_, url, headers, payload, _request_timeout=aiohttp.ClientTimeout(total=seconds)
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{method} {path}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__


def _error(status: int, content: bytes, what: str) -> ClusterError:
    """Return the error that a status code and the server's own message stand for."""
    message = content.decode(errors="replace")[:1000]
    with contextlib.suppress(ValueError):
        answer = json.loads(content)
        message = text(answer, "message") if isinstance(answer, Mapping) else message
    match status:
        case 404:
            return NotFound(f"{what}: {message}")
        case 409 | 410:
            return Conflict(f"{what}: {message}")
        case 403:
            return Forbidden(message)
        case 400 | 401 | 405 | 413 | 415 | 422:
            return Rejected(message)
        case _:
            return Unavailable(f"{what}: the API server answered {status}: {message}")
