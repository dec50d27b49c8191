"""A sidecar without an operator: one file with a fleet and a policy, the same limits, for one process.

`manifests` reads the file, `leader` grants by the same lease book as the operator, `state` keeps what must
outlive the process, `pricing` and `learning` do for one sidecar what the operator does for many, `watching`
follows changes of the files.
"""
