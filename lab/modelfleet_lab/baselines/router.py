"""Plays a baseline's rule against real servers over HTTP.

In: requests, the rule, and the servers' addresses. Out: replies, within the same budget and deadline as the
product's. Next: `demo.replay` asks through it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from modelfleet_lab.baselines import Offer, Rule
from modelfleet_lab.demo.replay import Ending, Reply, ask_over_http
from modelfleet_lab.demo.scenario import LabModel, Request


@dataclass(slots=True)
class Server:
    """One replica as the router sees it."""

    model: str
    url: str
    in_flight: int = 0


class Router:
    """One central router: it sees every request in flight and every answer's usage.

    It stops sending once what the answers cost reaches the budget (the field counts spend after the
    answer), and refuses what has not ended by the deadline.
    """

    def __init__(
        self,
        *,
        rule: Rule,
        models: Sequence[LabModel],
        servers: Mapping[str, Sequence[str]],
        offers: Mapping[str, Sequence[Offer]],
        budget: float,
        deadline: float,
        max_tokens: int,
        session: aiohttp.ClientSession,
    ) -> None:
        self._rule = rule
        self._models = {model.name: model for model in models}
        self._servers = {name: [Server(name, url) for url in urls] for name, urls in servers.items() if urls}
        self._rotation = {name: itertools.cycle(servers) for name, servers in self._servers.items()}
        self._offers = offers
        self._budget = budget
        self._deadline = deadline
        self._max_tokens = max_tokens
        self._session = session
        self._waiting: deque[tuple[Request, asyncio.Future[Server]]] = deque()
        self.spent = 0.0
        """USD, by the usage of the answers so far."""

    async def ask(self, request: Request) -> Reply:
        """Route and send `request`."""
        if self.spent >= self._budget:
            return Reply(Ending.REFUSED, detail="the budget is spent")
        end = asyncio.get_running_loop().time() + self._deadline
        turn: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, turn))
        self._send_waiting()
        try:
            async with asyncio.timeout_at(end):
                server = await turn
        except TimeoutError:
            return Reply(Ending.REFUSED, detail="no slot became free in time")
        try:
            return await self._ask(server, request, end)
        finally:
            server.in_flight -= 1
            self._send_waiting()

    async def _ask(self, server: Server, request: Request, end: float) -> Reply:
        if self.spent >= self._budget:
            return Reply(Ending.REFUSED, detail="the budget is spent")
        left = end - asyncio.get_running_loop().time()
        reply = await ask_over_http(
            self._session, server.url, server.model, request, max_tokens=self._max_tokens, timeout=left
        )
        self.spent += self._models[server.model].cost(*reply.tokens)
        if reply.ending is Ending.LOST and asyncio.get_running_loop().time() >= end:
            return Reply(Ending.REFUSED, detail="no answer within the deadline")
        return reply

    def _send_waiting(self) -> None:
        """Give servers to those that wait, first come first served."""
        while self._waiting:
            request, turn = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
                continue
            offers = [o for o in self._offers[request.question.question_id] if o.model in self._servers]
            model = self._rule.choose(offers, self._free())
            if model is None:
                return
            self._waiting.popleft()
            server = self._pick(model)
            server.in_flight += 1
            turn.set_result(server)

    def _free(self) -> dict[str, int]:
        return {
            name: sum(max(0, self._models[name].concurrency - server.in_flight) for server in servers)
            for name, servers in self._servers.items()
        }

    def _pick(self, model: str) -> Server:
        """Return the replica with the fewest requests in flight, of equals the next in turn."""
        turn = self._rotation[model]
        in_turn = [next(turn) for _ in self._servers[model]]
        next(turn)
        return min(in_turn, key=lambda server: server.in_flight)
