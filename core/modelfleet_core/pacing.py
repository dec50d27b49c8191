"""Stage assign, money over time: a reserve price that keeps money for requests that gain more from it.

In: spend as it happens, the allowance that the operator hands down, and the time.
Out: `price` (the assignment's `money_price`) and `limit` (its row on expected cost).
Next: the assignment problem. The ledger, not pacing, is the hard limit.

Formula: design of the programs, section 6: price <- max(calibrated, price + eta (spend - allowance)).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class PacingRule:
    """How prices follow spend."""

    calibrated: float
    """Quality per USD below which no money is ever spent; the floor of the price."""
    ceiling: float
    """Quality per USD that no request offers: the price stops there, so that it comes down soon again."""
    horizon: float
    """Seconds. Overspending one horizon's allowance takes the price from 0 to the ceiling;
    unspent allowance is carried on for at most one horizon."""

    def __post_init__(self) -> None:
        if not 0 <= self.calibrated <= self.ceiling or self.horizon <= 0:
            raise ValueError(f"pacing needs 0 <= calibrated <= ceiling and a horizon over 0 s, not {self}")


@dataclass(frozen=True, slots=True)
class Pacing:
    """State of one policy in one sidecar. Money in USD."""

    rule: PacingRule
    price: float
    """Quality per USD."""
    credit: float
    """Allowance not spent yet; negative: overspent."""
    spent: float
    """Since `at`."""
    at: float

    @classmethod
    def start(cls, rule: PacingRule, now: float, allowance_per_second: float) -> Pacing:
        """Begin at the calibrated price with the allowance of one horizon."""
        credit = allowance_per_second * rule.horizon
        return cls(rule=rule, price=rule.calibrated, credit=credit, spent=0.0, at=now)

    def spend(self, amount: float) -> Pacing:
        """Book `amount`; a settlement below what was booked gives back by a negative one."""
        return replace(self, spent=self.spent + amount)

    def advance(self, now: float, allowance_per_second: float) -> Pacing:
        """Move to `now`: the allowance of the time since falls due, and the price follows spend."""
        elapsed = max(0.0, now - self.at)
        allowance = allowance_per_second * elapsed
        most = allowance_per_second * self.rule.horizon
        excess = self.spent - allowance
        price = self.price + self.rule.ceiling * excess / most if most > 0 else self.rule.ceiling
        return replace(
            self,
            price=min(self.rule.ceiling, max(self.rule.calibrated, price)),
            credit=max(-most, min(most, self.credit - excess)),
            spent=0.0,
            at=max(self.at, now),
        )

    @property
    def limit(self) -> float:
        """Expected USD that the next batch may spend: the pacing row's limit."""
        return max(0.0, self.credit - self.spent)
