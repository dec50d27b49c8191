"""Observe: what is asked, as sums that merge; stages allocate and publish read classes of it.

A sidecar counts in a `Sketch` and reports what changed; the leader's `DemandMeter` merges the reports into
rates and means; `grouping` and `joining` make few classes of many cells; `forecast` knows the hours of a
day.
"""

from modelfleet_core.demand.classes import DemandClass, ModelOffer, SharedDemand

__all__ = ["DemandClass", "ModelOffer", "SharedDemand"]
