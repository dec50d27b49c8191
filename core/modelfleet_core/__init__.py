"""The decisions of modelfleet: pure functions and values, without I/O, clock, logging or randomness.

Read in the order of the eight stages: `manifests` (spec), `demand` (observe), `allocation` (allocate),
`division` and `leasing` (publish), `batching` (batch), `estimation` and `assignment` (assign), and
`leasing.holding` (forward and learn: reserve, settle).
"""
