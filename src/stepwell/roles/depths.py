"""How deep in the model each parameter stands, for rates that differ from layer to layer.

A depth is the number of the block that a parameter belongs to: 1 to n for the model's n blocks, 0 for what the
activations meet before the first (patch embedding, class token, stem) and for every embedding outside a block, n + 1
for what follows the last (final norm, pooler, head). The counting is that of BEiT's layer decay (Bao et al. 2021,
arXiv:2106.08254, in their published code) and of ELECTRA's (Clark et al. 2020, arXiv:2003.10555). timm gives the final
norm to the last block instead.

Nothing is run, so the order is that of registration, and the blocks are found from the containers:

1. A block is a module with at least two matrices, which stands in a `ModuleList`, or in a `Sequential` where its class
   is repeated in the model's Sequentials. Lists within a block (experts, sublayers, attention heads) are no depth.
2. A list whose members differ in width holds stages (Swin, ConvNeXt, ResNet, EfficientNet). The blocks are counted
   through them.
3. What stands between two blocks (the downsampling of a stage, a norm between encoder and decoder) belongs to the
   second, whose input it makes.
4. Where there are no blocks, each layer is one depth: the model's children with a matrix, in order, as in a perceptron,
   VGG or a stack of recurrent layers. The head is then the last of them.

So an encoder counts 1 to n and the decoder after it n + 1 to n + m: every block of the decoder reads what the encoder's
last one made, and the encoder is the further from the loss. A parameter that is used at several depths (a head tied to
an embedding) takes the least.

Where registration misleads, `depths=` corrects it: two towers that run side by side (CLIP) are counted one after the
other, and what is an attribute of the whole model but used at its end (a projection that is a bare parameter) is 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

from torch import nn

from stepwell.roles.layers import Reading, own_parameters
from stepwell.roles.names import ParameterRole, Role

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
LAYER_ROLES: tuple[Role, ...] = ("hidden matrix", "convolution", "head", "custom matrix")
"""The roles of the matrices that make a layer."""


def deepest(entries: Iterable[ParameterRole]) -> int:
    """The greatest depth, 0 where there are no entries: a layer-wise rate is lr·decay^(deepest − depth)."""
    return max((entry.depth for entry in entries), default=0)


def read_depths(model: nn.Module, readings: dict[nn.Module, dict[str, Reading]]) -> dict[nn.Module, dict[str, int]]:
    """For each module, the depths of its own parameters, by attribute.

    Args:
        model: the whole model.
        readings: for each module, the roles of its own parameters.
    """
    counting = _Counting(readings)
    counting.walk(model)
    if not counting.blocks:
        return _read_chain(model, readings)
    counting.settle(counting.blocks + 1)
    return counting.depths


class _Counting:
    """The walk through a model that numbers its blocks."""

    def __init__(self, readings: dict[nn.Module, dict[str, Reading]]) -> None:
        self.readings = readings
        self.lists = _Lists(readings)
        self.blocks = 0
        self.waiting: list[nn.Module] = []  # met since the last block
        self.depths: dict[nn.Module, dict[str, int]] = {}

    def walk(self, module: nn.Module) -> None:
        """Number the blocks below a module that is no block itself."""
        self.waiting.append(module)
        members = self.lists.members(module)
        staged = not self.lists.of_one_width(members)
        for child in module.children():
            if child not in members or (staged and self.lists.is_stage(child)):
                self.walk(child)
            elif child not in self.depths:
                self.blocks += 1
                self.settle(self.blocks if self.blocks > 1 else 0)
                for part in child.modules():
                    self.depths.setdefault(part, dict.fromkeys(self.readings[part], self.blocks))

    def settle(self, depth: int) -> None:
        """Give a depth to all that was met since the last block."""
        for module in self.waiting:
            self.depths.setdefault(module, _outside(self.readings[module], depth))
        self.waiting.clear()


class _Lists:
    """Which members of a model's lists are blocks, and which are stages of them."""

    def __init__(self, readings: dict[nn.Module, dict[str, Reading]]) -> None:
        self.readings = readings
        self.counts: dict[nn.Module, int] = {}
        self.stages: set[nn.Module] = set()
        sequentials = [module for module in readings if isinstance(module, nn.Sequential)]
        could_be = {child for container in sequentials for child in self.large(container)}
        classes = Counter(type(child) for child in could_be if type(child) not in CONTAINERS)
        self.repeated = {kind for kind, count in classes.items() if count > 1}
        # Beside Sequentials that hold repeated blocks, one with a single block of another class is a stage as well.
        for container in sequentials:
            plain = [child for child in container.children() if type(child) is nn.Sequential]
            if any(self.members(child) for child in plain):
                self.stages.update(plain)

    def members(self, container: nn.Module) -> list[nn.Module]:
        """The children of a list that are blocks, or stages of them."""
        if isinstance(container, nn.ModuleList) or container in self.stages:
            return self.large(container)
        if not isinstance(container, nn.Sequential):
            return []
        large = self.large(container)
        plain = [child for child in large if type(child) in CONTAINERS]
        repeated = len(plain) > 1 and self.of_one_width(plain)
        return [child for child in large if type(child) in self.repeated or (repeated and child in plain)]

    def large(self, container: nn.Module) -> list[nn.Module]:
        """The children with two matrices or more."""
        return [child for child in container.children() if self.matrices(child) > 1]

    def is_stage(self, member: nn.Module) -> bool:
        """Whether most of a member's matrices stand in blocks of a list of its own."""
        inside = {block for container in (member, *member.children()) for block in self.members(container)}
        return 2 * sum(self.matrices(block) for block in inside) > self.matrices(member)

    def matrices(self, module: nn.Module) -> int:
        """How many matrices a module and those below it hold."""
        if module not in self.counts:
            own = sum(role in LAYER_ROLES for role, _ in self.readings[module].values())
            self.counts[module] = own + sum(self.matrices(child) for child in module.children())
        return self.counts[module]

    def of_one_width(self, members: list[nn.Module]) -> bool:
        """Whether neighbours share more than half of the shapes of their matrices."""
        shapes = [self.shapes(member) for member in members]
        return all(2 * len(first & second) > len(first | second) for first, second in pairwise(shapes))

    def shapes(self, member: nn.Module) -> set[tuple[int, ...]]:
        """The shapes of a member's matrices."""
        return {
            tuple(parameter.shape)
            for module in member.modules()
            for attribute, parameter in own_parameters(module).items()
            if self.readings[module][attribute][0] in LAYER_ROLES
        }


def _outside(readings: dict[str, Reading], depth: int) -> dict[str, int]:
    """The depths of a module's parameters outside the blocks, where embeddings are always 0."""
    return {attribute: 0 if role == "embedding" else depth for attribute, (role, _) in readings.items()}


def _read_chain(model: nn.Module, readings: dict[nn.Module, dict[str, Reading]]) -> dict[nn.Module, dict[str, int]]:
    """The depths in a model without blocks, layer by layer."""
    found: dict[nn.Module, dict[str, int]] = {}
    depth = 0
    for layer in _layers(model):
        if any(role in LAYER_ROLES for module in layer.modules() for role, _ in readings[module].values()):
            depth += 1
        for module in layer.modules():
            found.setdefault(module, _outside(readings[module], depth))
        if isinstance(layer, nn.RNNBase):
            # Several layers in one: torch ends the names of their parameters in `_l0`, `_l1` and so on.
            for attribute in found[layer]:
                number = re.search(r"_l(\d+)", attribute)
                found[layer][attribute] += int(number[1]) if number else 0
            depth += layer.num_layers - 1
    return {module: found.get(module, dict.fromkeys(roles, 0)) for module, roles in readings.items()}


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers of a model without blocks. A module that does nothing but wrap another is looked through."""
    layers = list(_unpacked(module))
    if isinstance(module, nn.RNNBase) or not layers:
        return [module]
    return _layers(layers[0]) if len(layers) == 1 and not own_parameters(layers[0]) else layers


def _unpacked(module: nn.Module) -> Iterator[nn.Module]:
    """A module's children that hold parameters, and in place of a plain container, its own."""
    for child in module.children():
        if type(child) in CONTAINERS:
            yield from _unpacked(child)
        elif any(True for _ in child.parameters()):
            yield child
