"""Clipping, unscaling and leaving out a step, where only the device knows: the host does not wait for its answer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stepwell.batching import Bucket
from stepwell.rules.rule import Rule


class Verdicts:
    """An optimizer's verdicts on its gradients, and how many steps they have left out."""

    def __init__(self) -> None:
        self._judge: Any = None
        self._buckets: list[Bucket] = []
        self._skipped = 0

    def serve(self, buckets: list[Bucket]) -> bool:
        """Whether one device can judge the gradients of all of these, and each engine acts on its verdict."""
        if buckets is self._buckets:
            return self._judge is not None
        self._skipped = self.skipped
        self._buckets, self._judge = buckets, None
        batches = [bucket.batch for bucket in buckets]
        if (
            batches
            and all(bucket.engine.judges for bucket in buckets)
            and len({batch.weights[0].device for batch in batches}) == 1
            and all(type(batch.rule).measure is Rule.measure for batch in batches)
        ):
            engine: Any = buckets[0].engine
            self._judge = engine.judge(batches)
        return self._judge is not None

    def reach(self, *, limit: float | None, skipping: bool, scale: Tensor | None, found: Tensor | None) -> None:
        """Judge the gradients, and tell the batches."""
        verdict = self._judge.reach(limit=limit, skipping=skipping, scale=scale, found=found)
        for bucket in self._buckets:
            bucket.batch.verdict = verdict
            bucket.batch.may_skip = skipping or found is not None

    @property
    def skipped(self) -> int:
        """How many steps have been left out. The host waits for the device."""
        return self._skipped + (int(self._judge.verdict[3]) if self._judge is not None else 0)

    @property
    def norm(self) -> Tensor:
        """The norm of the gradients judged last."""
        norm: Tensor = self._judge.verdict[2]
        return norm
