"""What the API answers about queues: their quotas and use, in whole GPUs and in slices."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from scheduler.jobs import QueueUse, SliceUse


class SliceUseOut(BaseModel):
    """Slices (MIG) of one flavor below a node of the quota tree; `borrowed` is of those in use."""

    flavor: str
    nominal: int
    used: int
    borrowed: int

    @classmethod
    def of(cls, found: SliceUse) -> SliceUseOut:
        """The wire form."""
        return cls(**{name: getattr(found, name) for name in cls.model_fields})


class QueueOut(BaseModel):
    """A node of the quota tree; `path` is empty for the whole machine. GPUs and jobs are those below it.

    `nominal` and `used_gpus` are whole GPUs; `slices` has each flavor of slices that is in service, by flavor.
    """

    path: str
    is_queue: bool
    nominal: int
    used_gpus: int
    running: int
    pending: int
    slices: list[SliceUseOut]

    @classmethod
    def of(cls, found: QueueUse) -> QueueOut:
        """The wire form."""
        own = {name: getattr(found, name) for name in cls.model_fields if name != "slices"}
        return cls(**own, slices=[SliceUseOut.of(use) for use in found.slices])


SLICES: Final = {"flavor": "a100-mig-1g.10gb", "nominal": 14, "used": 9, "borrowed": 0}
QUEUE: Final = {
    "path": "science/universities",
    "is_queue": True,
    "nominal": 8,
    "used_gpus": 2,
    "running": 1,
    "pending": 3,
    "slices": [SLICES],
}
"""Examples of the object schemas of this page; `api.examples` takes them up."""
