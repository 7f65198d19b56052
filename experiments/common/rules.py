"""Mask rules as scripts train them: with updates often enough in trainings of any length."""

from __future__ import annotations

import dataclasses

import jaxticket as jt
from experiments.common.job import Job
from jaxticket.sparsify.dynamic import MaskRule

EVERY = 100
"""Steps between updates of rules that have many, as published and in `jt.RULES`."""


def interval(job: Job) -> int:
    """Give the steps between updates: `EVERY`, or a sixtieth of short trainings."""
    return max(1, min(EVERY, job.size.steps // 60))


def rule_of(job: Job, name: str) -> MaskRule:
    """Give a rule of `jt.RULES` with updates after every `interval` where it has many."""
    rule = jt.RULES[name]
    if getattr(rule, "every", None) == EVERY:
        rule = dataclasses.replace(rule, every=interval(job))  # type: ignore[type-var]
    return rule
