"""What differs between two plans of one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stepwell.text.tabular import some

if TYPE_CHECKING:
    from stepwell.planning.plans import Plan

EXAMPLES = 2


def differences(ours: Plan, theirs: Plan) -> list[str]:
    """What differs, a line for each change, parameters that it is the same for together."""
    lines: list[tuple[str, str]] = []
    if ours.horizon != theirs.horizon:
        lines.append(("horizon", f"{_text(ours.horizon)} → {_text(theirs.horizon)}"))
    first, second = _by_parameter(ours), _by_parameter(theirs)
    for name in [*first, *(name for name in second if name not in first)]:
        one, two = first.get(name, {"rule": "not trained"}), second.get(name, {"rule": "not trained"})
        # Where the rules differ, what only one of them has is no change of its own.
        common = [key for key in one if key in two] if one["rule"] != two["rule"] else list({**one, **two})
        changed = [
            f"{key} {_text(one.get(key))} → {_text(two.get(key))}" for key in common if one.get(key) != two.get(key)
        ]
        if changed:
            lines.append((name, ", ".join(changed)))
    return _gathered(lines)


def _by_parameter(plan: Plan) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for group in plan.groups:
        schedules = {f"{name} schedule": repr(one) for name, one in group.schedules.items()}
        storage = group.storage._asdict()
        settings = {"rule": type(group.rule).__name__, **group.rule.values(), **schedules, **storage}
        found |= {member.name: settings for member in group.members}
    return found


def _text(value: Any) -> str:
    """A value as short as it is told apart."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))})"
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _gathered(lines: list[tuple[str, str]]) -> list[str]:
    """Lines that say the same of several parameters as one."""
    said: dict[str, list[str]] = {}
    for name, what in lines:
        said.setdefault(what, []).append(name)
    return [f"{some(names, EXAMPLES)}: {what}" for what, names in said.items()]
