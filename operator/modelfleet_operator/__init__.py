"""The operator: plans a fleet, scales its Deployments and leases its capacity to the sidecars."""

import os

# Before anything imports NumPy: matrices are small here, and a thread for each of a node's cores would use
# up what CPU the container may have.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
