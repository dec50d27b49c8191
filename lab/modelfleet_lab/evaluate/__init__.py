"""The evaluation: what routing gains on recorded outcomes, against baselines, with intervals.

In: a folder of recorded outcomes, a seed. Out: figures (`figures`), a table, JSON. Next: the report's page.

`protocol` splits the data and names the best single model; `estimators` are told the past and estimate the
test; `sweeps` turns estimates into policies at all prices, `streams` plays the policies that need a budget;
`curves` measures quality against cost, `calibration` the estimates, `published` the measures of the
literature, `intervals` says how sure all that is. Definitions and how to read them: `docs/evaluation.md`.
"""
