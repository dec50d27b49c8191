"""Leases of slots and money: how limits hold over many sidecars and any fault.

`messages` are what the two sides say, `grants` is the operator's side, `ledger` the budget's account of
grants, `holding` the sidecar's side. The rules are those of a lease with full vectors, cumulative counters,
epochs and sequences, so that loss, repeats and reordering of messages can break no limit.
"""
