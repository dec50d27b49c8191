"""Stages batch and assign in one sidecar, as a state machine without clock, threads or tasks.

The live sidecar, the simulation and the tests drive the same code:

    queue.arrive(ticket, candidate, now); queue.changed(now); ...
    while (batch := queue.due(now)) is not None:
        outcomes = queue.commit(solving.solve(batch, remaining), now)   # `solve` may run in a thread
    ... call `due` again at `queue.wake_at`, and tell the leader `queue.wants(now)`.

Read `candidate` (what is known of one request), `worth` (what it is worth where), `window` (when to look),
`turns` (whose turn it is),
`room` and `rows` (what the lease allows), `solving` (the choice), `placing` (the reservations), `wanting`
(what to ask the leader for), `outcome` (the answers), `queue` (all together).
"""
