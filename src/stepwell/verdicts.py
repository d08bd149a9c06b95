"""Clipping, unscaling and leaving out a step, where only the device knows: the host does not wait for its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from stepwell.bucket import Bucket
from stepwell.rules.rule import Rule


class Verdicts:
    """An optimizer's verdicts on its gradients, and how many steps they have left out.

    Attributes:
        norm: the norm of the gradients judged last, on the device; None where they were not measured.
    """

    def __init__(self) -> None:
        self.norm: Tensor | None = None
        self._judge: Any = None
        self._may_skip = False
        self._buckets: list[Bucket] = []
        self._skipped = 0

    def judged(
        self,
        standing: Callable[[], list[Bucket] | None],
        *,
        limit: float | None,
        on_nonfinite: str,
        scale: Tensor | None,
        found: Tensor | None,
    ) -> list[Bucket] | None:
        """The buckets of this step, told of a verdict on their gradients that the device reaches by itself.

        None where nothing is asked of the gradients, where the host has to know the answer (also because the step may
        be left out, which an engine cannot), and at a first step: were it left out, it should leave no state behind.

        Args:
            standing: gives the buckets, if they are those of the step before.
            limit: the greatest global norm, or None.
            on_nonfinite: "skip" leaves the step out where a gradient is not finite, "raise" is the host's.
            scale: what the loss was multiplied with, or None.
            found: not 0 where a scaler has found infinity or NaN: then the step is left out.
        """
        skipping = on_nonfinite == "skip"
        if on_nonfinite == "raise" or not (skipping or limit is not None or scale is not None or found is not None):
            return None
        buckets = standing()
        may_skip = skipping or found is not None
        if buckets is None or not self._serve(buckets) or (may_skip and not self._may_skip):
            return None
        verdict = self._judge.reach(limit=limit, skipping=skipping, scale=scale, found=found)
        self.norm = verdict[2] if limit is not None or skipping else None
        for bucket in buckets:
            bucket.batch.verdict, bucket.batch.may_skip = verdict, may_skip
        return buckets

    def _serve(self, buckets: list[Bucket]) -> bool:
        """Whether one device can judge the gradients of all of these, and each engine takes the verdict's factor."""
        if buckets is not self._buckets:
            self._skipped = self.skipped
            self._buckets, self._judge = buckets, None
            batches = [bucket.batch for bucket in buckets]
            if len({batch.weights[0].device for batch in batches}) == 1 and all(
                type(batch.rule).measure is Rule.measure for batch in batches
            ):
                engine: Any = next(bucket.engine for bucket in buckets if bucket.engine.judges)
                self._judge = engine.judge(batches)
                self._may_skip = all(bucket.engine.leaves_out(bucket.batch) for bucket in buckets)
        return self._judge is not None

    @property
    def skipped(self) -> int:
        """How many steps have been left out. The host waits for the device."""
        return self._skipped + (int(self._judge.verdict[3]) if self._judge is not None else 0)
