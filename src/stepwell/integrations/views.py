"""How a rule sees a parameter of a library that counts outputs on the last axis, as Flax and Keras do.

The rules speak of torch's shapes: a matrix (out, in), the kernel of a convolution (out, in, height, width). There a
matrix is (in, out), and a kernel (height, width, in, out).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Literal, get_args

from stepwell.rules.rule import Rule, Shape
from stepwell.text.naming import nearest

Outputs = Literal["last", "first"]


def check_outputs(outputs: str) -> None:
    """Raise ValueError for what names no axis."""
    known = get_args(Outputs)
    if outputs not in known:
        raise ValueError(f"outputs must be 'last' or 'first', got {outputs!r}{nearest(outputs, known)}")


@dataclass(frozen=True)
class View:
    """What of a rule serves one parameter, and how it sees that.

    Args:
        whole: the rule.
        shape: the parameter's shape.
        outputs: the axis that counts outputs.
    """

    whole: Rule
    shape: Shape
    outputs: Outputs = "last"

    @cached_property
    def rule(self) -> Rule:
        """The rule fitted to the parameter's shape. Raises ValueError where it takes no such shape."""
        fitted = self.whole.fit(self._turned)
        if fitted.acts_on == "matrices" and len(self.shape) < 2:
            raise ValueError(
                f"{type(self.whole).__name__} acts on matrices (…, rows, cols), not on a parameter of shape "
                f"{self.shape}; give that to a rule such as AdamW"
            )
        return fitted

    @cached_property
    def seen(self) -> Shape:
        """The shape in which the rule sees the parameter."""
        return self.rule.working_shape(self._turned)

    def slot_shape(self, name: str) -> Shape:
        """The shape of a slot: the parameter's own, unless the rule says another."""
        slot = next(slot for slot in self.rule.slot_list() if slot.name == name)
        return self.shape if slot.shape is None else self.rule.slot_shape(slot, self._turned)

    def hyper_parameters(self, live: Mapping[str, Any]) -> dict[str, Any]:
        """What the fitted rule gets as `h`, where the whole rule's values are these now."""
        own = self.rule.own_values(live)
        return {name: own[name] if name in own else live[name] for name in self.rule.field_names()}

    def into(self, x: Any, library: ModuleType) -> Any:
        """An array of the parameter's shape, as the rule sees it. `library` has NumPy's `transpose` and `reshape`."""
        if self._axes:
            x = library.transpose(x, self._axes)
        return x if self.seen == self._turned else library.reshape(x, self.seen)

    def back(self, x: Any, library: ModuleType) -> Any:
        """What the rule has worked out, in the parameter's shape."""
        if self.seen != self._turned:
            x = library.reshape(x, self._turned)
        return library.transpose(x, _inverse(self._axes)) if self._axes else x

    @cached_property
    def _axes(self) -> tuple[int, ...]:
        """The order of axes that the rule wants; none where it is the parameter's."""
        axes = tuple(range(len(self.shape)))
        if self.outputs == "first" or len(axes) < 2 or self.whole.acts_on == "elements":
            return ()
        is_kernel = len(axes) > 3 or (len(axes) == 3 and getattr(self.whole, "conv1d", False))
        if is_kernel and self.whole.acts_on == "matrices":
            return (axes[-1], axes[-2], *axes[:-2])
        return (*axes[:-2], axes[-1], axes[-2])

    @cached_property
    def _turned(self) -> Shape:
        return tuple(self.shape[axis] for axis in self._axes) or self.shape


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axes.index(axis) for axis in range(len(axes)))
