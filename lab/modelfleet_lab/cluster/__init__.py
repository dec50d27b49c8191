"""A whole Kubernetes cluster of one node on this machine, for its tests and for trying the product by hand.

`python -m modelfleet_lab.cluster` is the way in (`__main__`). In the order of what happens: `prerequisites`
looks for the system's programs, `isolation` gives a process namespaces of its own with the file tree of
`mounts` and the control groups of `cgroups`, `node` starts everything in there (`containers` the part that
runs containers, from images of `archives`), `access` is what commands and tests use, and `evidence` keeps
what a failed run leaves.
"""
