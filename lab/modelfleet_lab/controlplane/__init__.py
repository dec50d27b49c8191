"""A real Kubernetes control plane on this machine, for the demo and the integration tests.

`binaries` finds or builds the programs, `namespace` gives them a private network, `start` runs them,
each as a `daemon`.
"""
