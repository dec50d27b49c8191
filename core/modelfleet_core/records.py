"""Stages batch and assign: how values are made of which every request needs some.

In: a class of annotated fields. Out: a slotted dataclass that type checkers take for a frozen one, compared
by identity. Next: `batching`, and the sidecar's asks and decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

Made = TypeVar("Made")


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def record(cls: type[Made]) -> type[Made]:
    """Make `cls` a record, which nobody changes: checked before the program runs, not while it does.

    A dataclass that is frozen at run time sets each field by a call, some 60 ns; the values of one request
    have more than a hundred fields.
    """
    return dataclass(slots=True, eq=False)(cls)
