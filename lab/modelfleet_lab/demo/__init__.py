"""`modelfleet demo`: the same traffic through the product and the baselines, told by the servers' logs."""
