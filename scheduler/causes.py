"""Causes: why a planned start moves, as the words that plans, journal and explanations share."""

from __future__ import annotations

from enum import StrEnum


class MoveCause(StrEnum):
    """Why a planned start comes later than planned, or is planned no more."""

    ENTITLED_WORK = "entitled_work"
    """Work within its guarantee came, or what ran as borrowed runs within it now."""
    NODE_LOST = "node_lost"
    POLICY_CHANGED = "policy_changed"
    OPERATOR_ACT = "operator_act"
    """A pause, a place at the front, a reclaim forbidden, a node drained, a project suspended."""
    WINDOW = "window"
    OVERDUE = "overdue"
    """What runs, or a cycle, did not come or end when it was to: GPUs count until their absence is proven."""
    AGED = "aged"
    """An aged job of its queue, which nobody overtakes, waits still; or it is aged itself and plans one that lasts."""
    NOT_ELIGIBLE = "not_eligible"
    """The job itself may not start: held, no budget, a dependency; its reason says which."""
    REPLANNED = "replanned"
    """None of these: planned starts that stood in each other's way were planned anew."""
