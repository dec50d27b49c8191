"""The injector: gives pods that ask for it the sidecar, when they are created.

Read in this order: `review` (what the API server asks), `followed` (which API keys the pod's sidecar may
need), `sidecar` (what is added), `patch` (how), `server` (over HTTPS). `printing` gives the same to people
who add the sidecar by hand.
"""
