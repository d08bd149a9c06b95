"""The source of the kernels that an optimizer runs, for those who want to read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stepwell.codecs import Storage, codecs_for
from stepwell.engines.choice import EngineName, engine_for, fused
from stepwell.optimizer.bucket import real
from stepwell.rules.registry import rule_class


def kernels_of(engine: EngineName, groups: Iterable[Mapping[str, Any]]) -> str:
    """The fused kernels of these groups' rules and dtypes, each once. Raises ValueError where none runs fused."""
    found: dict[str, None] = {}
    for group in groups:
        rule = rule_class(group["rule"]).of(group)
        for p in group["params"]:
            fitted, weight = rule.fit(tuple(p.shape)), real(p)
            writer = fused(weight.device.type)
            codecs = codecs_for(fitted, tuple(p.shape), weight.dtype, Storage.of(group))
            if writer is not None and engine_for(engine, fitted, weight, codecs).name == "fused":
                found.setdefault(writer.source(fitted, codecs, weight.dtype))
    if not found:
        raise ValueError("no parameter of this optimizer runs in the fused engine, so there is no kernel to show")
    return "\n\n".join(found)
