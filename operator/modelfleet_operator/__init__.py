"""The operator: plans a fleet, scales its Deployments and leases its capacity to the sidecars."""
