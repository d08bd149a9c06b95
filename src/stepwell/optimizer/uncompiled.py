"""What `torch.compile` does not look into."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch._compile import _disable_dynamo

_Method = TypeVar("_Method", bound=Callable[..., Any])


def uncompiled(method: _Method) -> _Method:
    """The method, which runs as it stands also where a compiled function calls it.

    Our kernels are compiled already. Dynamo would trace how they are chosen, keep the step's number and the learning
    rate as constants, and begin anew at every step.
    """
    # Called in any other place, this would import Dynamo, which takes longer than all of ours.
    untraced = _disable_dynamo(method)

    @functools.wraps(method)
    def as_it_stands(*args: Any, **kwargs: Any) -> Any:
        return untraced(*args, **kwargs) if torch.compiler.is_compiling() else method(*args, **kwargs)

    return cast(_Method, as_it_stands)
