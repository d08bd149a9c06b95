"""The model that a command speaks of: what a function of the user's returns, or a configuration of transformers'."""

from __future__ import annotations

import contextlib
import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from stepwell.cli.arguments import InputError, text_of
from stepwell.importing import blaming, find_function
from stepwell.text.naming import nearest

Model = Annotated[
    str,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="Your model: a function without arguments that returns it, or its class. The current directory is "
        "importable.",
        show_default=False,
    ),
]
HfConfig = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A config.json of transformers' in place of --model: the class that it names under `architectures` is "
        "made without data.",
    ),
]
Meta = Annotated[bool, typer.Option("--meta", help="Make the model of --model without data, on the meta device.")]


def chosen_model(function: str, config: Path | None, meta: bool) -> nn.Module:
    """The model that the options name.

    Raises:
        InputError: for none of them or both, and for whatever keeps the model from being made.
    """
    if bool(function) == (config is not None):
        raise InputError(
            "name a model: --model module:function, or --hf-config file.json"
            if config is None
            else "--model and --hf-config name two models: give one of them"
        )
    if config is not None:
        return _from_config(config)
    make = find_function(function, "model", "that returns a torch.nn.Module", InputError)
    with torch.device("meta") if meta else contextlib.nullcontext(), blaming(f"model {function!r}", InputError):
        made = make()
    if not isinstance(made, nn.Module):
        raise InputError(f"model {function!r} must return a torch.nn.Module, got {type(made).__name__}")
    return made


def _from_config(path: Path) -> nn.Module:
    content = _read(path)
    try:
        transformers = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise InputError("--hf-config needs transformers: pip install transformers") from error
    architectures = content.get("architectures")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        raise InputError(
            f'{str(path)!r} must name the model\'s class, such as "architectures": ["LlamaForCausalLM"], '
            f"got {architectures!r}"
        )
    name = architectures[0]
    kind: Any = getattr(transformers, name, None)
    if kind is None or not hasattr(kind, "config_class"):
        raise InputError(
            f"transformers {transformers.__version__} has no model {name!r}{nearest(name, dir(transformers))}"
        )
    with torch.device("meta"), blaming(f"{name} of {str(path)!r}", InputError):
        config = kind.config_class.from_dict(content)
        model: nn.Module = kind(config)
        dtype = getattr(config, "dtype", None)
        return model.to(dtype) if isinstance(dtype, torch.dtype) else model


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text_of(path))
    except RecursionError as error:
        raise InputError(f"{str(path)!r} is no configuration: none is nested that deep") from error
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno}, column {error.colno}"
        raise InputError(f"{str(path)!r} is no JSON: {error.msg} ({where})") from error
    if not isinstance(content, dict):
        raise InputError(f"{str(path)!r} must hold a configuration, got {type(content).__name__}")
    return content
