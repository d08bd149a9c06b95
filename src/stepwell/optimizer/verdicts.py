"""Clipping, unscaling and leaving out a step, where only the device knows: the host does not wait for its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from stepwell.engines.choice import judging
from stepwell.engines.devices import capturing
from stepwell.optimizer.bucket import Bucket
from stepwell.rules.rule import Rule

if TYPE_CHECKING:
    from stepwell.engines.fused.triton_verdict import Judge


class Verdicts:
    """An optimizer's verdicts on its gradients, and how many steps they have left out.

    Attributes:
        norm: the norm of the gradients judged last, on the device; None where they were not measured.
    """

    def __init__(self) -> None:
        self.norm: Tensor | None = None
        self._judge: Judge | None = None
        self._captured: list[Judge] = []  # whose memory CUDA graphs go on reading
        self._verdict: Tensor | None = None  # the place of all that were reached on one device
        self._may_skip = False
        self._asked_to_skip = False
        self._buckets: list[Bucket] = []
        self._skipped = 0

    def judged(
        self,
        standing: Callable[[], list[Bucket] | None],
        *,
        limit: float | None,
        on_nonfinite: str,
        scale: Tensor | None,
        found: Tensor | float | None,
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
        if isinstance(found, float):  # ranks have told each other, and so the host
            return None
        buckets = standing()
        may_skip = skipping or found is not None
        judge = None if buckets is None else self._judge_of(buckets)
        if buckets is None or judge is None or (may_skip and not self._may_skip):
            return None
        self._asked_to_skip = self._asked_to_skip or may_skip
        verdict = judge.reach(limit=limit, skipping=skipping, scale=scale, found=found)
        self.norm = verdict[2] if limit is not None or skipping else None
        for bucket in buckets:
            bucket.batch.verdict, bucket.batch.may_skip = verdict, may_skip
        return buckets

    def _judge_of(self, buckets: list[Bucket]) -> Judge | None:
        """What judges the gradients of all of these, whose engines take the factor of its verdict; None where they lie
        on several devices, or the rules of some add up over all parameters first."""
        if buckets is not self._buckets:
            if capturing(buckets[0].parameters[0].device):
                raise RuntimeError(
                    "a CUDA graph can capture a step that clips, unscales, or may be left out, from the third on: the "
                    "host decides about the first, the device from the second on; call optimizer.step() twice, with "
                    "the same gradients, before the capture"
                )
            if self._judge is not None and self._judge.captured:
                self._captured.append(self._judge)
            self._buckets, self._judge = buckets, None
            batches = [bucket.batch for bucket in buckets]
            devices = {batch.weights[0].device for batch in batches}
            engine = judging(next(iter(devices)).type) if len(devices) == 1 else None
            measuring = any(type(batch.rule).measure is not Rule.measure for batch in batches)
            dtypes = [{gradient.dtype for gradient in batch.gradients} for batch in batches]
            if engine is not None and not measuring and all(len(of_batch) == 1 for of_batch in dtypes):
                self._judge = engine.judge(batches, self._verdict)
                if self._judge.verdict is not self._verdict:
                    self._skipped, self._verdict = self.skipped, self._judge.verdict
                self._may_skip = all(bucket.engine.leaves_out(bucket.batch) for bucket in buckets)
        return self._judge

    @property
    def skipped(self) -> int:
        """How many steps have been left out. The host waits for the device, where a step may have been."""
        return self._skipped + (int(self._verdict[3]) if self._verdict is not None and self._asked_to_skip else 0)
