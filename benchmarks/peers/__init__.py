"""One harness for the sidecar and for other gateways: `python -m benchmarks.peers --json FILE`.

`targets` starts a program on a core of its own before the mock model server (`go/mock`), `phases` asks it
by the load generator (`go/load`) on another core, `processes` counts what that costs.
"""
