"""Assign: which model answers each request of a batch, within the sidecar's lease, in milliseconds."""
