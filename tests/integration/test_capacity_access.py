"""G18: the capacity service admits only pods with a token of their own, over TLS, and only as themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from modelfleet_operator.tokens import TokenAdmission
from modelfleet_sidecar.lease import LeaseClient
from modelfleet_sidecar.operator_access import OperatorAccess
from support.access import AUDIENCE, Reviews, access_to, made_token, pem, write_pair
from support.leases import (
    POD_A,
    CapacityService,
    MemoryLedgers,
    capacity_service,
    leasing,
    total_free,
    until,
)

pytestmark = pytest.mark.integration


class Guarded:
    """A capacity service over TLS, the CA that sidecars know, and each pod's token file."""

    def __init__(
        self, service: CapacityService, authority: trustme.CA, reviews: Reviews, folder: Path
    ) -> None:
        self.service = service
        self.authority = authority
        self.reviews = reviews
        self.folder = folder

    def token(self, text: str) -> Path:
        file = self.folder / "token"
        file.write_text(text)
        return file

    def access(self, token: str) -> OperatorAccess:
        return access_to(self.service, self.authority, self.token(token))

    async def refusal(self, client: LeaseClient) -> str:
        """Return why the client is not connected."""
        await until(client, lambda: bool(client.trouble))
        assert not client.connected
        return client.trouble


@asynccontextmanager
async def guarded(folder: Path, reviews: Reviews, slots: int = 8) -> AsyncIterator[Guarded]:
    authority = trustme.CA()
    admission = TokenAdmission(reviews, AUDIENCE)
    async with capacity_service(
        MemoryLedgers(),
        {POD_A: slots},
        certificate=write_pair(folder / "tls", authority),
        admission=admission,
    ) as service:
        yield Guarded(service, authority, reviews, folder)
    await admission.close()


async def test_a_pod_with_its_own_token_gets_its_lease_over_tls(tmp_path: Path) -> None:
    token = made_token("one")
    async with (
        guarded(tmp_path, Reviews(one=token)) as guard,
        leasing(guard.service, "one", access=guard.access(token)) as one,
    ):
        await until(one, lambda: total_free(one) == 8)
        assert guard.reviews.asked == [token]


async def test_a_sidecar_that_trusts_another_ca_says_so_and_goes_on_trying(tmp_path: Path) -> None:
    token = made_token("one")
    async with guarded(tmp_path, Reviews(one=token)) as guard:
        authority = tmp_path / "ca.crt"
        authority.write_text(pem(trustme.CA()))
        access = OperatorAccess(f"127.0.0.1:{guard.service.port}", str(authority), guard.token(token))
        async with leasing(guard.service, "one", access=access) as one:
            assert "not signed by the CA in MODELFLEET_OPERATOR_CA" in await guard.refusal(one)
            assert not guard.reviews.asked  # the token never left
            authority.write_text(pem(guard.authority))
            await until(one, lambda: one.connected)
