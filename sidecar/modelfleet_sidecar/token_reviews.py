"""Stage batch, for a sidecar that other pods reach: asks the API server whose token a caller has sent.

In: a token. Out: its ServiceAccount, or None. Next: `gate`. It needs one right, to create TokenReviews, and
goes over the sidecar's own client, whose connections are kept.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from pathlib import Path

from modelfleet_core.values import EndpointUrl

from modelfleet_sidecar.connection import ConnectError, CutError, Target
from modelfleet_sidecar.dialing import Dialer
from modelfleet_sidecar.gate import ReviewError
from modelfleet_sidecar.upstream import Pool

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its own token and the API server's CA."""
PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
CONNECT_TIMEOUT = 2.0
MAX_ANSWER = 256 * 1024
_USER = "system:serviceaccount:"


class TokenReviews:
    """Reviews of tokens for one audience."""

    def __init__(
        self, server: str, audience: str, *, clock: Callable[[], float], account: Path = ACCOUNT
    ) -> None:
        """`account`: folder with `token`, which is read anew each time, and `ca.crt`."""
        self._target = Target.parse(EndpointUrl(server))
        self._audience = audience
        self._account = account
        self._pool = Pool(connect_timeout=CONNECT_TIMEOUT, clock=clock, dialer=Dialer(tls=self._tls))

    async def review(self, token: str) -> str | None:
        """Return the ServiceAccount of a token; None: it is none for this audience. Raises ReviewError."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        try:
            own = (self._account / "token").read_text().strip()
            status, answer = await self._post(json.dumps(body).encode(), own)
        except (ConnectError, CutError, OSError, UnicodeDecodeError, ssl.SSLError) as error:
            raise ReviewError(f"the API server can not be asked: {error}") from error
        if status == 403:
            raise ReviewError("allow this pod's ServiceAccount to create tokenreviews.authentication.k8s.io")
        if status not in (200, 201):
            raise ReviewError(f"the API server answers with status {status}")
        return self._account_of(answer)

    async def close(self) -> None:
        await self._pool.close()

    async def _post(self, body: bytes, own: str) -> tuple[int, bytes]:
        connection = await self._pool.acquire(self._target)
        try:
            await connection.send(self._target, PATH, body, {}, bearer=own)
            status, _ = await connection.head()
            answer = b""
            while part := await connection.read():
                answer += part
                if len(answer) > MAX_ANSWER:
                    raise CutError(f"its answer is over {MAX_ANSWER} bytes")
        except BaseException:
            connection.abort()
            raise
        self._pool.release(connection)
        return status, answer

    def _account_of(self, answer: bytes) -> str | None:
        try:
            status = json.loads(answer)["status"]
            if status.get("authenticated") is not True or self._audience not in status.get("audiences", ()):
                return None
            user = status["user"]["username"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ReviewError("the API server's answer is no TokenReview") from error
        if not isinstance(user, str) or not user.startswith(_USER):
            return None
        return user.removeprefix(_USER).replace(":", "/")

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._account / "ca.crt")
