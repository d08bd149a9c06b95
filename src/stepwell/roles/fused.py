"""Which matrices hold several layers side by side: query, key and value in one.

A matrix rule orthogonalises a matrix as one; a fused one is several, and each wants its own (`Muon(split=…)`). The
blocks are read from a hidden matrix of (q + 2·kv) outputs in three ways:

1. torch's `MultiheadAttention`, and what keeps its weight under the same name: `in_proj_weight` of (3·width, width).
2. A layer under one of the names `FUSED`, whose owner declares how it cuts the outputs: `split_size` (GPT-2), or its
   heads, such as `num_heads`, `head_dim` and `num_key_value_heads` (`HEADS`, `HEAD_SIZES`, `KEY_VALUE_HEADS`), when
   their product accounts for all outputs. Fewer heads for keys and values give (q, kv, kv).
3. A layer under one of those names whose owner declares neither, with three times as many outputs as inputs.

Everything else has no blocks: what contradicts the declaration, gates fused with values, and `query_key_value`, where
GPT-NeoX, BLOOM and Falcon lay the heads out one after the other, each with its own query, key and value. No structure
shows such an order; a few models have it under a name of `FUSED` (CodeGen, MiniMax, the first DeBERTa), and there the
blocks are thirds that mix all three.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from stepwell.roles.layers import output_size, own_parameters

FUSED = ("qkv", "qkv_proj", "to_qkv", "Wqkv", "c_attn", "in_proj")
HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head", "kv_heads")
HEAD_SIZES = ("head_dim", "head_size", "dim_head", "d_head")

Split = tuple[tuple[int, ...], Literal[-2, -1]]
"""The sizes of the blocks, and the dimension along which they lie."""

WHOLE: Split = ((), -2)


def read_split(module: nn.Module, attribute: str, name: str, owner: nn.Module | None) -> Split:
    """The blocks of a hidden matrix.

    Args:
        module: the layer.
        attribute: the matrix in it.
        name: the layer's own name in its owner, "" for the model.
        owner: the module that the layer is a child of, None for the model.
    """
    own = own_parameters(module)
    shape = own[attribute].shape
    if len(shape) != 2:
        return WHOLE
    if attribute == "in_proj_weight":
        return (_thirds(shape[0]), -2) if shape[0] == 3 * shape[1] else WHOLE
    if attribute != "weight" or name not in FUSED or owner is None:
        return WHOLE
    out = output_size(module, own) or shape[0]
    if out not in shape:
        return WHOLE
    rows = out == shape[0]
    sizes = _declared(owner, out)
    if sizes is None:
        sizes = _thirds(out) if out == 3 * shape[1 if rows else 0] else ()
    return (sizes, -2 if rows else -1) if sizes else WHOLE


def _declared(owner: nn.Module, out: int) -> tuple[int, ...] | None:
    """The blocks that the owner's sizes make of so many outputs, () where they do not fit; None if it declares none."""
    size = _first(owner, ("split_size",))
    if size is not None:
        return (size,) * (out // size) if out in (2 * size, 3 * size) else ()
    heads, shared, width = _first(owner, HEADS), _first(owner, KEY_VALUE_HEADS), _first(owner, HEAD_SIZES)
    if shared is not None and width is not None:
        query = out - 2 * shared * width
        fits = query > 0 and query % width == 0 and heads in (None, query // width)
        return (query, shared * width, shared * width) if fits else ()
    if shared is not None and heads is not None:
        width, rest = divmod(out, heads + 2 * shared)
        return () if rest else (heads * width, shared * width, shared * width)
    if heads is not None and width is not None:
        return _thirds(out) if out == 3 * heads * width else ()
    return None


def _first(owner: nn.Module, names: tuple[str, ...]) -> int | None:
    """The first of the attributes that is a positive whole number."""
    values = (getattr(owner, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _thirds(size: int) -> tuple[int, ...]:
    return (size // 3,) * 3
