"""Where tensors are stored: whole, or in parts on many ranks.

An engine works on plain tensors. Of a parameter that lies on many ranks (a `DTensor`, as FSDP2 and tensor parallelism
make them) it gets the part that this rank holds, and so of its gradient and its slots. What a rule may do with a part
depends on what it acts on: elements may be cut anywhere; where it reduces, the ranks add up what they have; matrices
are put together, each on one rank, and given back in parts.
"""

from stepwell.layout.agreeing import counts_over, ranks_of
from stepwell.layout.parts import (
    Layout,
    held,
    largest_held,
    layout_of,
    local,
    refuse_anothers_part,
    refuse_elsewhere,
    refuse_flattened,
    same_layout,
)
from stepwell.layout.slots import check_cut, check_stored, shared_state, slot_layout, state_mesh
from stepwell.layout.stored import make_state_whole, portable, settle_parts
from stepwell.layout.sums import add_over_ranks, sum_over_ranks
from stepwell.layout.wholes import make_whole

__all__ = [
    "Layout",
    "add_over_ranks",
    "check_cut",
    "check_stored",
    "counts_over",
    "held",
    "largest_held",
    "layout_of",
    "local",
    "make_state_whole",
    "make_whole",
    "portable",
    "ranks_of",
    "refuse_anothers_part",
    "refuse_elsewhere",
    "refuse_flattened",
    "same_layout",
    "settle_parts",
    "shared_state",
    "slot_layout",
    "state_mesh",
    "sum_over_ranks",
]
