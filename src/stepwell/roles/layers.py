"""What a module's own parameters are for, read from what the module is.

Three kinds of evidence, the strongest first:

1. The class. A torch layer, or a subclass of one, documents where it keeps its weights and biases. Whatever else
   a subclass adds is judged as in 3.
2. What a foreign class declares. Layers that imitate torch's (sharded, quantised, fused ones) carry its sizes, such as
   `in_features` and `out_features`, beside a `weight` and perhaps a `bias`; layers of experts carry their number. A
   stack (experts, rows, cols) is hidden, and so is a router, (experts, cols): it maps activations to scores, as the
   `Linear` does that other models have in its place. GLM-4.5 (arXiv:2508.06471) gives Muon all but embeddings, biases
   and norms, routers among it.
3. What a foreign layer is made of. A layer is a module below the model whose children hold no parameters.
   A 2-D `weight` with a `bias` as long as one of its sides maps activations (Hugging Face's `Conv1D`). One vector, or
   two of the same length, scale and shift; they are a norm where the layer keeps an epsilon or calls itself one, and
   else (a layer scale, DoRA's magnitudes) "scalar". A table beside integers that pick its rows (a relative bias) is
   "other". Other matrices, or stacks of them, are "custom matrix" where the layer holds nothing else: surely weights,
   but nothing shows whether they multiply activations or are looked up in. So are the matrices of which a
   parametrization makes a weight (a weight norm's directions, whose lengths are "scalar"): they are not what is
   applied.

What stands beside child modules (position embeddings, class tokens, `A_log`, layer scales) enters the activations in a
way that no structure shows: vectors and numbers are "scalar", the rest is "other".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

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
    Layer(
        (nn.RNNBase, nn.RNNCellBase),
        "hidden matrix",
        r"weight_(ih|hh|hr)(_l\d+(_reverse)?)?",
        r"bias_(ih|hh)(_l\d+.*)?",
    ),
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

EPSILON = re.compile(r"(^|_)eps(ilon)?(_|$)")
"""How norms call what they add to a variance."""

MADE_OF = re.compile(r"(.+)_(v|orig)")
"""How `torch.nn.utils` calls that of which its hooks make a weight: a weight norm's directions, what is pruned."""

EXPERTS = ("num_experts", "num_local_experts", "n_experts", "n_routed_experts")
"""How layers call the number of experts that they hold, or choose from."""


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
                attribute: (role, f"{attribute} of {kind}")
                if role
                else _read_beside(layer, own[attribute], attribute, kind)
                for attribute, role in known.items()
            }
    readings = {attribute: _read_stray(tensor, attribute, kind) for attribute, tensor in own.items()}
    return readings | (
        _read_declaration(module, own, kind)
        or _read_experts(module, own, kind)
        or _read_structure(module, own, kind, is_model)
    )


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


def _read_experts(module: nn.Module, own: dict[str, nn.Parameter], kind: str) -> dict[str, Reading]:
    count = expert_count(module)
    if count < 2:
        return {}
    stacks = {attribute: tensor for attribute, tensor in own.items() if tensor.ndim == 3 and tensor.shape[0] == count}
    readings: dict[str, Reading] = {
        attribute: ("hidden matrix", f"{attribute} of {kind}, a matrix for each of {count} experts")
        for attribute in stacks
    }
    for attribute, tensor in own.items():
        if _is_bias_of(tensor, list(stacks.values())):
            readings[attribute] = "bias", f"{attribute} of {kind}, a row for each of {count} experts"
        elif attribute == "weight" and tensor.ndim == 2 and tensor.shape[0] == count:
            readings[attribute] = "hidden matrix", f"weight of {kind}, a score for each of {count} experts"
            if "bias" in own:
                readings["bias"] = "bias", f"bias of {kind}"
    return readings


def _read_structure(module: nn.Module, own: dict[str, nn.Parameter], kind: str, is_model: bool) -> dict[str, Reading]:
    if is_model or isinstance(module, (nn.ParameterList, nn.ParameterDict)):
        return {}
    if len(list(module.parameters())) > len(set(own.values())):  # a child holds more
        return {}
    if is_affine(own):
        return {"weight": ("hidden matrix", f"2-D weight with a bias in {kind}"), "bias": ("bias", f"bias of {kind}")}
    tensors = list(own.values())
    if len(own) <= 2 and all(_is_vector(tensor) and tensor.numel() == tensors[0].numel() for tensor in tensors):
        if _is_norm(module):
            return dict.fromkeys(own, ("norm", f"{kind} scales or shifts what it has normalised"))
        return dict.fromkeys(own, ("scalar", f"{kind} scales or shifts and does nothing else"))
    if all(min(tensor.shape, default=0) > 1 and tensor.ndim > 1 for tensor in tensors):
        if len(own) == 1 and any(_is_index(buffer) for buffer in module.buffers(recurse=False)):
            return dict.fromkeys(own, ("other", f"the table of {kind}, whose integers pick its rows"))
        stacks = [tensor for tensor in tensors if tensor.ndim == 3]
        return {
            attribute: ("bias", f"{attribute} of {kind}, a row for each matrix of a stack")
            if _is_bias_of(tensor, stacks)
            else ("custom matrix", f"{attribute} of {kind}, which holds nothing but matrices")
            for attribute, tensor in own.items()
        }
    if isinstance(module, ParametrizationList):
        return {
            attribute: ("custom matrix", f"{attribute} of {kind}, of which a weight is made")
            for attribute, tensor in own.items()
            if not _is_small(tensor)
        }
    return {}


def _is_norm(module: nn.Module) -> bool:
    """Whether a layer, or what it is made of, keeps an epsilon or is called a norm."""
    return any("norm" in kind.__name__.casefold() for part in module.modules() for kind in type(part).__mro__) or any(
        EPSILON.search(attribute) for part in module.modules() for attribute in vars(part)
    )


def _is_index(buffer: Tensor) -> bool:
    return not buffer.is_floating_point() and not buffer.is_complex() and buffer.dtype != torch.bool


def expert_count(module: nn.Module) -> int:
    """How many experts a layer declares that it holds, or chooses from. 0 where it declares none."""
    return next((size for name in EXPERTS if isinstance(size := getattr(module, name, None), int)), 0)


def output_size(module: nn.Module, own: dict[str, nn.Parameter]) -> int | None:
    """How many features a layer declares, or shows by its bias, that it puts out. None where it does neither."""
    declared = getattr(module, "out_features", None)
    if isinstance(declared, int):
        return declared
    return own["bias"].numel() if "bias" in own else None


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


def _is_small(tensor: Tensor) -> bool:
    """Whether it is a vector or a number."""
    return sum(size != 1 for size in tensor.shape) <= 1


def _read_beside(layer: Layer, tensor: Tensor, attribute: str, kind: str) -> Reading:
    """The role of what a torch layer holds beside what it documents."""
    made = MADE_OF.fullmatch(attribute)
    if made and layer.read(made[1]) == layer.role and not _is_small(tensor):
        return "custom matrix", f"{attribute} of {kind}, of which its {made[1]} is made"
    return _read_stray(tensor, attribute, kind)


def _read_stray(tensor: Tensor, attribute: str, kind: str) -> Reading:
    """The role of a parameter about which its module says nothing."""
    if _is_small(tensor):
        return "scalar", f"{attribute} of {kind}, a vector or number of its own"
    return "other", f"{attribute} of {kind}, whose use no structure shows"
