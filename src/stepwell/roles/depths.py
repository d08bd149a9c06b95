"""How deep in the model each parameter stands, for rates that differ from layer to layer.

A depth is the number of the block that a parameter belongs to: 1 to n for the model's n blocks, 0 for what the
activations meet before the first (patch embedding, class token, stem) and for every embedding outside a block, n + 1
for what follows the last (final norm, pooler, head). The counting is that of BEiT's layer decay (Bao et al. 2021,
arXiv:2106.08254, in their published code) and of ELECTRA's (Clark et al. 2020, arXiv:2003.10555). timm gives the final
norm to the last block instead.

Nothing is run, so the order is that of registration, and the blocks are found from the containers:

1. A block is a module with at least two matrices, which stands in a `ModuleList`, or in a `Sequential` where its class
   is repeated in the model's Sequentials. Lists within a block (experts, sublayers, attention heads) are no depth.
2. A list whose members differ in width (Swin, ConvNeXt, EfficientNet), or are plain lists of equal blocks, is one of
   stages. The blocks are counted through them, as through the stages that are attributes of the model (ResNet).
3. `ModuleList`s registered one after the other, of one length, some of norms alone and none of whole blocks, hold the
   blocks in slices (XLM: attentions, norms, feed-forwards, norms).
4. What stands between two blocks (the downsampling of a stage, a norm between encoder and decoder) belongs to the
   second, whose input it makes. The layer that a model names as its output follows the last, wherever it stands.
5. Where there are no blocks, each layer is one depth: the model's children with a matrix, in order, as in a perceptron,
   VGG or a stack of recurrent layers. The head is then the last of them.

So an encoder counts 1 to n and the decoder after it n + 1 to n + m: every block of the decoder reads what the encoder's
last one made, and the encoder is the further from the loss. A parameter that is used at several depths (a head tied to
an embedding) takes the least.

Where registration misleads, `depths=` corrects it: two towers that run side by side (CLIP) are counted one after the
other; a final norm that is registered before the blocks (OPT), or a projection that is a bare parameter of the model,
is 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise

from torch import nn

from stepwell.roles.heads import declared_outputs
from stepwell.roles.layers import Reading, own_parameters
from stepwell.roles.names import ParameterRole, Role

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
LAYER_ROLES: tuple[Role, ...] = ("hidden matrix", "convolution", "custom matrix")
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
    counting = _Counting(model, readings)
    counting.walk(model)
    if not counting.blocks:
        return _read_chain(model, readings)
    counting.waiting += (part for output in counting.outputs for part in output.modules())
    counting.settle(counting.blocks + 1)
    return counting.depths


class _Counting:
    """The walk through a model that numbers its blocks."""

    def __init__(self, model: nn.Module, readings: dict[nn.Module, dict[str, Reading]]) -> None:
        self.readings = readings
        self.lists = _Lists(readings)
        self.outputs = self._outputs(model)
        self.blocks = 0
        self.waiting: list[nn.Module] = []  # met since the last block
        self.depths: dict[nn.Module, dict[str, int]] = {}

    def walk(self, module: nn.Module) -> None:
        """Number the blocks below a module that is no block itself."""
        self.waiting.append(module)
        members = self.lists.members(module)
        one_width = self.lists.of_one_width(members)
        slices = self.lists.slices(module)
        for child in module.children():
            if child in self.outputs:
                continue
            if child in slices:
                for block in slices[child]:
                    self.number(*block)
            elif child not in members or self.lists.is_stage(child, one_width):
                self.walk(child)
            elif child not in self.depths:
                self.number(child)

    def number(self, *block: nn.Module) -> None:
        """Give the next number to a block, and to what makes its input."""
        self.blocks += 1
        self.settle(self.blocks if self.blocks > 1 else 0)
        for part in block:
            for module in part.modules():
                self.depths.setdefault(module, dict.fromkeys(self.readings[module], self.blocks))

    def settle(self, depth: int) -> None:
        """Give a depth to all that was met since the last block."""
        for module in self.waiting:
            self.depths.setdefault(module, _outside(self.readings[module], depth))
        self.waiting.clear()

    def _outputs(self, model: nn.Module) -> set[nn.Module]:
        """The layers that the model names as its outputs, with what stands around them and holds no blocks."""
        owners = {child: owner for owner in reversed(self.readings) for child in owner.children()}
        found = set()
        for _, output in declared_outputs(model):
            around = output
            while (owner := owners.get(around, model)) is not model and not self.lists.hold_blocks(owner):
                around = owner
            found.add(around)
        return found


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

    def slices(self, module: nn.Module) -> dict[nn.Module, list[tuple[nn.Module, ...]]]:
        """The blocks that lists side by side hold in slices, under the first list; the others have none."""
        children = [child for child in module.children() if any(True for _ in child.parameters())]
        found: dict[nn.Module, list[tuple[nn.Module, ...]]] = {}
        for length, run in groupby(children, _length):
            lists = [child for child in run if isinstance(child, nn.ModuleList)]
            matrices = [self.matrices(child) for child in lists]
            whole = any(self._is_whole(member) for child in lists for member in child)
            if length > 1 and sum(matrices) > length and 0 in matrices and not whole:
                found |= {child: [] for child in lists} | {lists[0]: list(zip(*lists, strict=True))}
        return found

    def _is_whole(self, member: nn.Module) -> bool:
        """Whether a module has matrices and a norm, and so could be a block by itself."""
        roles = {role for module in member.modules() for role, _ in self.readings[module].values()}
        return self.matrices(member) > 1 and "norm" in roles

    def hold_blocks(self, module: nn.Module) -> bool:
        """Whether there are blocks anywhere below a module."""
        return any(self.members(part) or self.slices(part) for part in module.modules())

    def large(self, container: nn.Module) -> list[nn.Module]:
        """The children with two matrices or more."""
        return [child for child in container.children() if self.matrices(child) > 1]

    def is_stage(self, member: nn.Module, one_width: bool) -> bool:
        """Whether a member holds blocks, where it is as wide as its neighbours or where it is not."""
        if one_width:
            # A plain list of blocks that are alike. An attention and a feed-forward in a list are halves of one.
            blocks = self.members(member)
            alike = len({type(block) for block in blocks}) == 1 and self.of_one_width(blocks)
            return type(member) in CONTAINERS and alike
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


def _length(module: nn.Module) -> int:
    """The length of a `ModuleList`, 0 of other modules."""
    return len(module) if isinstance(module, nn.ModuleList) else 0


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
    """A module's children that hold parameters, and in place of a container, or of what holds lists of layers, its."""
    for child in module.children():
        if type(child) in CONTAINERS or any(_is_list_of_layers(part) for part in child.children()):
            yield from _unpacked(child)
        elif any(True for _ in child.parameters()):
            yield child


def _is_list_of_layers(module: nn.Module) -> bool:
    layers = [child for child in module.children() if any(parameter.ndim > 1 for parameter in child.parameters())]
    return isinstance(module, (nn.Sequential, nn.ModuleList)) and len(layers) > 1
