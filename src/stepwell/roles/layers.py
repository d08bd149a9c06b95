"""What a module's own parameters are for, read from what the module is.

Three kinds of evidence, the strongest first:

1. The class. A torch layer, or a subclass of one, documents where it keeps its weights and biases. Whatever else
   a subclass adds is judged as in 3.
2. What a foreign class declares. Layers that imitate torch's (sharded, quantised, fused ones) carry its sizes, such as
   `in_features` and `out_features`, beside a `weight` and perhaps a `bias`.
3. What a foreign layer is made of. A layer is a module below the model whose children hold no parameters.
   A 2-D `weight` with a `bias` as long as one of its sides maps activations (Hugging Face's `Conv1D`). One vector, or
   two of the same length, scale and shift (a hand-written RMSNorm; a layer-scale module looks the same and is treated
   the same). Nothing but matrices, or stacks of them (experts, rows, cols), is a "custom matrix": surely weights, but
   nothing shows whether they multiply activations or are looked up in.

What stands beside child modules (position embeddings, class tokens, `A_log`, layer scales) enters the activations in a
way that no structure shows: vectors and numbers are "scalar", the rest is "other".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from stepwell.roles.names import Role

Reading = tuple[Role, str]
"""A role, and what it was read from."""


@dataclass(frozen=True)
class Layer:
    """One kind of torch layer: its classes, and in which of their attributes (regular expressions) they keep what."""

    classes: tuple[type[nn.Module], ...]
    role: Role
    weights: str = "weight"
    biases: str = "bias"
    role_of_biases: Role = "bias"

    def read(self, attribute: str) -> Role | None:
        if re.fullmatch(self.weights, attribute):
            return self.role
        return self.role_of_biases if re.fullmatch(self.biases, attribute) else None


LAYERS = (
    Layer((nn.Linear, nn.Bilinear), "hidden matrix"),
    Layer((nn.MultiheadAttention,), "hidden matrix", r"(in|q|k|v)_proj_weight", r"in_proj_bias|bias_[kv]"),
    Layer((nn.RNNBase, nn.RNNCellBase), "hidden matrix", r"weight_(ih|hh|hr)(_l\d+.*)?", r"bias_(ih|hh)(_l\d+.*)?"),
    Layer((_ConvNd,), "convolution"),
    Layer((nn.Embedding, nn.EmbeddingBag), "embedding"),
    # The offset of a norm shares the norm's role: it belongs to the same layer and is as little decayed.
    Layer((nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase), "norm", role_of_biases="norm"),
    Layer((nn.PReLU,), "scalar"),
)

DECLARATIONS: tuple[tuple[tuple[str, str], Role], ...] = (
    (("in_features", "out_features"), "hidden matrix"),
    (("num_embeddings", "embedding_dim"), "embedding"),
    (("in_channels", "out_channels"), "convolution"),
)


def read_layer(module: nn.Module, *, is_model: bool = False) -> dict[str, Reading]:
    """The role of each parameter that the module itself owns, by attribute.

    `is_model` says that the module is the whole model, which is never taken for a layer.
    """
    own = own_parameters(module)
    if not own:
        return {}
    kind = type(module).__name__
    for layer in LAYERS:
        if isinstance(module, layer.classes):
            known = {attribute: layer.read(attribute) for attribute in own}
            return {
                attribute: (role, f"{attribute} of {kind}") if role else _read_stray(own[attribute], attribute, kind)
                for attribute, role in known.items()
            }
    readings = {attribute: _read_stray(tensor, attribute, kind) for attribute, tensor in own.items()}
    return readings | (_read_declaration(module, own, kind) or _read_structure(module, own, kind, is_model))


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that the module owns itself, by attribute."""
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


def _read_declaration(module: nn.Module, own: dict[str, nn.Parameter], kind: str) -> dict[str, Reading]:
    weight = own.get("weight")
    if weight is None:
        return {}
    for attributes, role in DECLARATIONS:
        sizes = {getattr(module, attribute, None) for attribute in attributes}
        shaped = weight.ndim > 2 if role == "convolution" else weight.ndim == 2
        # One size is enough: a sharded layer declares the whole of what it holds a slice of.
        if shaped and None not in sizes and sizes & set(weight.shape):
            reading: Reading = (role, f"weight of {kind}, which declares {' and '.join(attributes)}")
            return {"weight": reading} | ({"bias": ("bias", f"bias of {kind}")} if "bias" in own else {})
    return {}


def _read_structure(module: nn.Module, own: dict[str, nn.Parameter], kind: str, is_model: bool) -> dict[str, Reading]:
    if is_model or isinstance(module, (nn.ParameterList, nn.ParameterDict)):
        return {}
    if len(list(module.parameters())) > len(set(own.values())):  # a child holds more
        return {}
    if is_affine(own):
        return {"weight": ("hidden matrix", f"2-D weight with a bias in {kind}"), "bias": ("bias", f"bias of {kind}")}
    tensors = list(own.values())
    if len(own) <= 2 and all(_is_vector(tensor) and tensor.numel() == tensors[0].numel() for tensor in tensors):
        return dict.fromkeys(own, ("norm", f"{kind} scales or shifts and does nothing else"))
    if all(min(tensor.shape, default=0) > 1 and tensor.ndim > 1 for tensor in tensors):
        stacks = [tensor for tensor in tensors if tensor.ndim == 3]
        return {
            attribute: ("bias", f"{attribute} of {kind}, a row for each matrix of a stack")
            if _is_bias_of(tensor, stacks)
            else ("custom matrix", f"{attribute} of {kind}, which holds nothing but matrices")
            for attribute, tensor in own.items()
        }
    return {}


def is_affine(own: dict[str, nn.Parameter]) -> bool:
    """Whether a layer owns a 2-D `weight` and a `bias` as long as one of its sides, and nothing else."""
    if own.keys() != {"weight", "bias"}:
        return False
    weight, bias = own["weight"], own["bias"]
    return weight.ndim == 2 and bias.ndim == 1 and bias.numel() in weight.shape


def _is_bias_of(tensor: Tensor, stacks: list[nn.Parameter]) -> bool:
    """Whether a tensor is (stack, features) beside a stack of matrices with that many features on one side."""
    if tensor.ndim != 2:
        return False
    count, features = tensor.shape
    return any(count == stack.shape[0] and features in stack.shape[1:] for stack in stacks)


def _is_vector(tensor: Tensor) -> bool:
    return sum(size > 1 for size in tensor.shape) == 1


def _read_stray(tensor: Tensor, attribute: str, kind: str) -> Reading:
    """The role of a parameter about which its module says nothing."""
    if sum(size != 1 for size in tensor.shape) <= 1:
        return "scalar", f"{attribute} of {kind}, a vector or number of its own"
    return "other", f"{attribute} of {kind}, whose use no structure shows"
