"""Which matrices are heads: the last ones, whose output is the model's.

No forward pass is run. Where the model, or a module in it, offers `get_output_embeddings()` (as Hugging Face's do) and
names a module, that module is the head. Elsewhere a linear layer is a head if

1. it stands in no repeated block, and
2. nothing registered after it takes in as many features as it puts out, or a half, a third or a quarter as many
   (gates, and queries, keys and values, are often made by one layer).

A repeated block is a module with layers inside that is an element of a `ModuleList`, or of a `Sequential` beside
another of its class; torch's attention and transformer layers count as blocks wherever they stand. So `nn.Transformer`
has no head, a GPT has its last linear layer, and a detector may have two heads. Where the order of registration
misleads, `roles=` corrects it.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from stepwell.roles.layers import Reading, expert_count, is_affine, output_size, own_parameters

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
BLOCKS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
CHUNKS = (1, 2, 3, 4)
INPUTS = ("in_features", "in1_features", "in2_features", "in_channels", "embed_dim", "kdim", "vdim", "input_size")


def heads(model: nn.Module, readings: dict[nn.Module, dict[str, Reading]]) -> dict[nn.Module, str]:
    """The modules whose matrices are heads, and why.

    Args:
        model: the whole model.
        readings: for each module in the order of registration, the roles of its own parameters.
    """
    declared = {
        module: f"{type(owner).__name__}.get_output_embeddings()"
        for owner, output in declared_outputs(model)
        for module in output.modules()
    }
    if declared:
        return declared
    repeated = set(_repeated(model))
    found: dict[nn.Module, str] = {}
    taken: set[int] = set()  # numbers of features that some later module can take in, whole or in chunks
    for module, roles in reversed(readings.items()):
        out = _features_out(module, roles)
        if out is not None and out not in taken and module not in repeated:
            found[module] = "nothing after it takes its output"
        if any(role not in ("norm", "bias", "scalar", "embedding") for role, _ in roles.values()):
            taken |= {chunks * size for size in _features_in(module) for chunks in CHUNKS}
    return found


def declared_outputs(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Modules that name their output layer, with that layer."""
    for module in model.modules():
        try:
            output = module.get_output_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError):
            continue
        if isinstance(output, nn.Module):
            yield module, output


def _repeated(model: nn.Module) -> Iterator[nn.Module]:
    """Every module inside a repeated block."""
    for container in model.modules():
        if isinstance(container, BLOCKS):
            yield from container.modules()
        elif isinstance(container, (nn.ModuleList, nn.Sequential)):
            members = [member for member in container.children() if _is_composite(member)]
            for member in members:
                if isinstance(container, nn.ModuleList) or sum(type(other) is type(member) for other in members) > 1:
                    yield from member.modules()


def _is_composite(module: nn.Module) -> bool:
    """Whether a module has layers inside and is more than a container of them."""
    return type(module) not in CONTAINERS and any(True for child in module.children() for _ in child.parameters())


def _features_out(module: nn.Module, roles: dict[str, Reading]) -> int | None:
    """How many features a linear layer puts out; None for every other module, and for a router's scores."""
    own = own_parameters(module)
    if roles.get("weight", ("other", ""))[0] != "hidden matrix" or own["weight"].ndim != 2 or expert_count(module):
        return None
    return output_size(module, own)


def _features_in(module: nn.Module) -> set[int]:
    """The numbers of features that a module may take in."""
    own = own_parameters(module)
    declared = {size for name in INPUTS if isinstance(size := getattr(module, name, None), int)}
    if declared:
        return declared
    if is_affine(own) and len(set(own["weight"].shape)) == 2:
        return set(own["weight"].shape) - {own["bias"].numel()}
    return {size for tensor in own.values() if tensor.ndim > 1 for size in tensor.shape}
