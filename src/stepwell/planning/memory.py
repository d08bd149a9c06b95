"""What a plan needs of memory: weights, gradients, state slot by slot, and the peak of a step."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from stepwell.codecs import AS_IT_IS, WEIGHTS, Codec, Storage, codecs_for, empty_parts, put
from stepwell.engines.choice import engine_for
from stepwell.engines.ranks.sharing import MATRIX, dtype_of_number, exchanged, in_rounds, shared_out, whole_here
from stepwell.optimizer.preparing import prepare
from stepwell.planning.laying import PlannedGroup, lay
from stepwell.planning.rehearsal import rehearse
from stepwell.planning.spreading import Spread
from stepwell.recipes import Recipe, named
from stepwell.rules.rule import Rule, Shape, flags
from stepwell.text import numbers
from stepwell.text.tabular import text_table

if TYPE_CHECKING:
    from stepwell.planning.plans import Plan


Way = Literal["read", "written"]
# What a storage is called in a title.
_WORDS = {"bfloat16": "bf16", "8bit": "8-bit", "4bit": "4-bit"} | {
    word: word for word in ("float32", "stochastic", "kahan", "compensated", "compensated8")
}


@dataclass(frozen=True)
class Bytes:
    """What one recipe needs, in bytes on the first rank.

    Attributes:
        title: the recipe.
        weights: the parameters, frozen ones included.
        gradients: of the trained ones, in their dtype.
        slots: the state, by slot.
        step: temporaries of a step at its fullest moment.
    """

    title: str
    weights: int
    gradients: int
    slots: Mapping[str, int]
    step: int

    @property
    def state(self) -> int:
        return sum(self.slots.values())

    @property
    def peak(self) -> int:
        """All of it together, at the fullest moment of a step."""
        return self.weights + self.gradients + self.state + self.step


@dataclass(frozen=True)
class Memory:
    """What a recipe needs of memory, and others beside it. `print` shows the table.

    Attributes:
        rows: the plan's own recipe first.
        spread: how the model lies on ranks.
    """

    rows: tuple[Bytes, ...]
    spread: Spread

    @property
    def own(self) -> Bytes:
        """What the plan's own recipe needs."""
        return self.rows[0]

    def __str__(self) -> str:
        headings = (("recipe", "weights", "gradients", "state", "step", "peak"), "state by slot")
        lines = [
            (
                (row.title, *map(numbers.memory, (row.weights, row.gradients, row.state, row.step, row.peak))),
                ", ".join(f"{name} {numbers.memory(value)}" for name, value in row.slots.items()) or "none",
            )
            for row in self.rows
        ]
        return "\n".join(filter(None, (text_table(headings, lines), self.ranks)))

    @property
    def ranks(self) -> str:
        """What the figures are of, in words; nothing for a single rank."""
        return self.spread.words

    def to_dict(self) -> dict[str, Any]:
        """As plain data, in bytes."""
        rows = [{**dataclasses.asdict(row), "state": row.state, "peak": row.peak} for row in self.rows]
        spread = self.spread
        return {
            "world_size": spread.world_size,
            "sharded": spread.sharded,
            "replicas": spread.replicas if spread.sharded else 1,
            "recipes": rows,
        }


def memory(plan: Plan, spread: Spread, beside: str | Recipe | Storage | Sequence[str | Recipe | Storage]) -> Memory:
    """See `Plan.memory`."""
    if isinstance(beside, str | Recipe | Storage):
        beside = (beside,)
    own = plan.recipe
    spread.check(plan.groups)
    title = own.name or "this recipe"
    rows = [_bytes(title, plan, own, plan.groups, spread)]
    for given in beside:
        if isinstance(given, Storage):
            given = own.replace(**given._asdict(), name=" ".join((title, *(_WORDS[word] for word in given if word))))
        chosen = named(given)
        other = chosen.replace(roles=own.roles, depths=own.depths, engine=own.engine)
        try:
            groups = lay(plan.model, other).groups
            spread.check(groups)
        except ValueError:  # as where weights are complex numbers: it is no alternative then
            continue
        row = _bytes(other.name or other.hash, plan, other, groups, spread)
        if all(dataclasses.replace(row, title=known.title) != known for known in rows):
            rows.append(row)
    return Memory(tuple(rows), spread)


def _bytes(title: str, plan: Plan, recipe: Recipe, groups: tuple[PlannedGroup, ...], spread: Spread) -> Bytes:
    slots: Counter[str] = Counter()
    trained = 0
    for (rule, shape, dtype, storage), count in alike(groups).items():
        trained += count * _weights_bytes(shape, dtype, spread)
        for number, size in _state_bytes(rule, shape, dtype, storage, spread):
            slots[number] += count * size
    frozen = sum(_weights_bytes(tuple(e.parameter.shape), e.parameter.dtype, spread) for e in plan.frozen)
    return Bytes(title, trained + frozen, trained, dict(slots), _step_peak(groups, recipe, spread))


def alike(groups: Sequence[PlannedGroup]) -> Counter[tuple[Rule, Shape, torch.dtype, Storage]]:
    """How often there is a parameter of one rule, fitted to it, shape, dtype and storage."""
    return Counter(
        (group.rule.fit(tuple(weight.shape)), tuple(weight.shape), weight.dtype, group.storage)
        for group in groups
        for weight in (member.parameter for member in group.members)
    )


def _weights_bytes(shape: Shape, dtype: torch.dtype, spread: Spread) -> int:
    return math.prod(spread.weights(shape)) * dtype.itemsize


def _state_bytes(
    rule: Rule, shape: Shape, dtype: torch.dtype, storage: Storage, spread: Spread
) -> Iterator[tuple[str, int]]:
    """What the first rank keeps of a parameter's state, slot by slot, and what it keeps beside the weights."""
    codecs = codecs_for(rule, shape, dtype, storage)
    for part in codecs[WEIGHTS].stored(WEIGHTS, spread.worked_on(shape))[1:]:
        yield part.name, part.nbytes
    for slot in rule.slot_list():
        if not slot.scalar:
            for part in codecs[slot.name].stored(slot.name, spread.slot(rule, slot, shape)):
                yield slot.name, part.nbytes


def state_of(rule: Rule, weight: Tensor, storage: Storage = AS_IT_IS) -> tuple[dict[str, Any], dict[str, Codec]]:
    """The state that the rule keeps for a parameter, and how weights and slots are stored in it."""
    state: dict[str, Any] = {}
    return state, prepare(rule, weight, state, {}, storage)


def state_on_meta(rule: Rule, weight: Tensor, storage: Storage) -> tuple[dict[str, Any], dict[str, Codec]]:
    """The same, without its data."""
    return state_of(rule, torch.empty_like(weight, device="meta"), storage)


def _state_by(codecs: Mapping[str, Codec], rule: Rule, weight: Tensor) -> tuple[dict[str, Any], Mapping[str, Codec]]:
    """The state of a part, zeros stored by the codecs of the whole."""
    state: dict[str, Any] = {"step": 0} | {slot.name: 0.0 for slot in rule.slot_list() if slot.scalar}
    shape = tuple(weight.shape)
    shapes = {slot.name: rule.slot_shape(slot, shape) for slot in rule.slot_list() if not slot.scalar}
    for number, codec in codecs.items():
        put(number, codec, empty_parts(number, codec, shapes.get(number, shape), weight), state)
    return state, codecs


def _step_peak(groups: tuple[PlannedGroup, ...], recipe: Recipe, spread: Spread) -> int:
    """Temporaries at the fullest moment: batches run one after the other, so the largest counts."""
    together: defaultdict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
    shared: defaultdict[tuple[Any, ...], list[tuple[Rule, Tensor]]] = defaultdict(list)
    for group in groups:
        for member in group.members:
            weight = member.parameter
            shape = tuple(weight.shape)
            fitted = group.rule.fit(shape)
            engine = engine_name(recipe.engine, fitted, weight, group.storage)
            layout = spread.layout(shape)
            if engine == "matrices" and layout is not None and not whole_here(fitted, layout):
                shared[bucket_key(fitted, shape, weight.dtype, group.storage)].append((fitted, weight))
            elif engine != "fused":
                held = weight.new_empty(spread.worked_on(shape), device="meta") if layout is not None else weight
                codecs = codecs_for(fitted, shape, weight.dtype, group.storage)
                together[engine, fitted, device_of(weight), *codecs.items()].append(held)
    found = [
        rehearse(rule, weights, device, engine, functools.partial(_state_by, dict(codecs))).peak
        for (engine, rule, device, *codecs), weights in together.items()
    ]
    return max((*found, *(_exchanging(bucket, spread) for bucket in shared.values())), default=0)


def bucket_key(rule: Rule, shape: Shape, dtype: torch.dtype, storage: Storage) -> tuple[Any, ...]:
    """What parameters that the optimizer works on together have in common, as `stepwell.batching` has it."""
    return type(rule), flags(type(rule), rule.values()), *codecs_for(rule, shape, dtype, storage).items()


def _exchanging(matrices: Sequence[tuple[Rule, Tensor]], spread: Spread) -> int:
    """Temporaries of a rank that puts matrices together, works on them and gives them back, in the fullest round.

    A message is there as it was sent, which the library that sends it may let go of late, and as it arrives. While a
    round is worked on, the next is under way to it, and what the last has brought is on its way back. What a rank has
    made of its parts, to be sent, stays until it comes back.
    """
    shapes = [rule.working_shape(tuple(weight.shape)) for rule, weight in matrices]
    owners = shared_out(shapes, spread.shards)
    rounds = in_rounds(shapes, owners)
    fullest = max(rounds, key=lambda places: max(_owned(matrices, places, owners, "read").values()))
    read, written = (_owned(matrices, fullest, owners, way) for way in ("read", "written"))
    rank = max(read, key=lambda owner: read[owner])
    mine = [matrices[place] for place in fullest if owners[place] == rank]
    apart: defaultdict[Rule, list[Tensor]] = defaultdict(list)
    for rule, weight in mine:
        apart[rule].append(weight)
    work = max(_working(rule, weights) for rule, weights in apart.items())
    made = sum(_made(*matrices[place], spread) for place in fullest)
    if len(rounds) == 1:
        return made + 2 * read[rank] + max(work, read[rank], 2 * written[rank])
    return 3 * made + 3 * read[rank] + work + 2 * written[rank]


def _working(rule: Rule, weights: Sequence[Tensor]) -> int:
    """Temporaries of a rank that works on these matrices, which it has put together."""
    device, function = device_of(weights[0]), "update"
    if MATRIX in exchanged(rule).read:
        dtype = dtype_of_number(rule, MATRIX, weights[0].dtype)
        weights, function = [torch.empty_like(weight, dtype=dtype, device="meta") for weight in weights], "turn"
    return rehearse(rule, weights, device, "matrices", state_of, function).peak


def _made(rule: Rule, weight: Tensor, spread: Spread) -> int:
    """Bytes of what a rank makes of its part of a matrix, to be sent in place of weights, gradient and slots."""
    if MATRIX not in exchanged(rule).read:
        return 0
    return math.prod(spread.worked_on(tuple(weight.shape))) * dtype_of_number(rule, MATRIX, weight.dtype).itemsize


def _owned(
    matrices: Sequence[tuple[Rule, Tensor]], places: Sequence[int], owners: Sequence[int], way: Way
) -> Counter[int]:
    """Bytes that each rank puts together, or gives back, of the matrices in these places."""
    found: Counter[int] = Counter()
    for place in places:
        rule, weight = matrices[place]
        found[owners[place]] += sum(number_bytes(rule, name, weight) for name in getattr(exchanged(rule), way))
    return found


def number_bytes(rule: Rule, number: str, weight: Tensor) -> int:
    """Bytes of the weights, the gradient or a slot of a parameter that is stored as it is, or of what is made of
    them."""
    slot = next((slot for slot in rule.slot_list() if slot.name == number), None)
    shape = tuple(weight.shape) if slot is None else rule.slot_shape(slot, tuple(weight.shape))
    return math.prod(shape) * dtype_of_number(rule, number, weight.dtype).itemsize


def device_of(weight: Tensor) -> str:
    """The type of device that a step will run on: for a model without data, most likely a GPU."""
    return "cuda" if weight.is_meta else weight.device.type


def engine_name(asked: str, rule: Rule, weight: Tensor, storage: Storage) -> str:
    """The engine that will run a parameter; for one on the meta device, as if it stood on a CPU or GPU."""
    if asked == "auto" and weight.is_meta:
        return "matrices" if rule.acts_on == "matrices" else "fused"
    return engine_for(asked, rule, weight, codecs_for(rule, tuple(weight.shape), weight.dtype, storage)).name
