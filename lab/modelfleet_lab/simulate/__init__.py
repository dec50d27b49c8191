"""`modelfleet simulate`: the cores of operator and sidecars in virtual time, over a network that may fail.

Read in this order: `scenario` (what is played), `workload` (the requests), `events` (the clock), `network`,
`operator_node` and `sidecar_node` (the product's cores behind their shells' rhythms), `servers` (who count
what is really in flight and billed), `product` and `rivals` (who decides), `world` (puts them together),
`bound` (what a clairvoyant could serve), `measures`, `play`, `plots`, `report`, `command`.
"""
