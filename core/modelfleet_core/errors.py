"""Errors that the core raises. Outcomes of a solve (infeasible, late) are values of its result instead."""

from __future__ import annotations


class SpecError(ValueError):
    """A manifest that can not become typed values.

    `path` names the field (`spec.models[2].pricing`), `problem` what is wrong, `remedy` what to do.
    """

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}; {remedy}")
        self.path = path
        self.problem = problem
        self.remedy = remedy
