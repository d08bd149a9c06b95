"""Well-known recipes, each number with its source.

A preset that cites no run of its own rates takes them from the paper it names, for the batch size that it names: they
are where to start, and not where to end. What our own runs found best stands beside them (`stepwell.measured`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from stepwell.recipes.recipe import Recipe
from stepwell.recipes.route import Route
from stepwell.schedules import Constant, Cosine, Linear, MultiStep
from stepwell.select import role
from stepwell.text.naming import nearest

_HIDDEN = role("hidden matrix")
_MAPS = "maps activations, so its update is orthogonalised"
# `stepwell compare` runs every recipe with a warm-up over a tenth of its steps; its sweep is committed beside it.
_COMPARED = "schedule: as in the committed runs of `stepwell compare`"
_COSINE, _FLAT = Cosine(warmup=0.1), Constant(warmup=0.1)

_ALL = (
    Recipe(
        name="adamw",
        source=f"Loshchilov & Hutter 2019 (arXiv:1711.05101), torch's defaults; {_COMPARED}",
        routes=(Route(rule="AdamW"),),
        schedules={"lr": _COSINE},
    ),
    Recipe(
        name="adam",
        source=f"Kingma & Ba 2015 (arXiv:1412.6980); {_COMPARED}",
        routes=(Route(rule="Adam"),),
        schedules={"lr": _COSINE},
    ),
    Recipe(
        name="sgd",
        source=f"torch's defaults; {_COMPARED}",
        routes=(Route(rule="SGD"),),
        schedules={"lr": _COSINE},
    ),
    Recipe(
        name="lion",
        source=f"Chen et al. 2023 (arXiv:2302.06675); {_COMPARED}",
        routes=(Route(rule="Lion"),),
        schedules={"lr": _COSINE},
    ),
    Recipe(
        name="lamb",
        source=f"You et al. 2020 (arXiv:1904.00962); {_COMPARED}",
        routes=(Route(rule="LAMB"),),
        schedules={"lr": _COSINE},
    ),
    Recipe(
        name="schedule-free",
        source="Defazio et al. 2024 (arXiv:2405.15682): a warm-up, and no decay after it",
        routes=(Route(rule="ScheduleFreeAdamW"),),
        schedules={"lr": _FLAT},
    ),
    Recipe(
        name="schedule-free-sgd",
        source="Defazio et al. 2024 (arXiv:2405.15682): a warm-up, and no decay after it",
        routes=(Route(rule="ScheduleFreeSGD"),),
        schedules={"lr": _FLAT},
    ),
    Recipe(
        name="muon",
        source=f"Liu et al. 2025 (arXiv:2502.16982), sec. 2.2: updates of the size of AdamW's, so that one rate and "
        f"decay serve both; {_COMPARED}",
        routes=(
            Route(
                rule="Muon", name="hidden", select=_HIDDEN, why=_MAPS,
                hyper_parameters={"adjust_lr_fn": "match_rms_adamw"},
            ),
            Route(rule="AdamW"),
        ),
        defaults={"lr": 1e-3, "weight_decay": 0.1},
        schedules={"lr": _COSINE},
    ),
    Recipe(
        name="muon-original",
        source="Jordan et al. 2024 (kellerjordan.github.io/posts/muon) and the example in the Muon repository",
        routes=(
            Route(rule="Muon", name="hidden", select=_HIDDEN, why=_MAPS, hyper_parameters={"lr": 0.02}),
            Route(rule="AdamW", hyper_parameters={"lr": 3e-4, "betas": (0.9, 0.95)}),
        ),
        defaults={"weight_decay": 0.01},
        schedules={"lr": _COSINE},
    ),
    Recipe(
        name="soap",
        source="Vyas et al. 2024 (arXiv:2409.11321) and the example in the SOAP repository: rate 3e-3, betas 0.95, "
        "decay 0.01, the basis renewed every 10 steps",
        routes=(
            Route(
                rule="SOAP", name="hidden", select=_HIDDEN,
                why="maps activations, so its gradient's two sides are worth a basis each",
            ),
            Route(rule="AdamW", hyper_parameters={"betas": (0.95, 0.95)}),
        ),
        defaults={"lr": 3e-3, "weight_decay": 1e-2},
        schedules={"lr": _COSINE},
    ),
    Recipe(
        name="gpt",
        source="Brown et al. 2020 (arXiv:2005.14165), app. B and table 2.1: the rate of the 125 M model at batches of "
        "0.5 M tokens; warm-up 375 M of 300 B tokens (the paper's cosine ends at 260 B, this one with the run)",
        routes=(Route(rule="AdamW"),),
        defaults={"lr": 6e-4, "betas": (0.9, 0.95), "weight_decay": 0.1},
        schedules={"lr": Cosine(warmup=0.00125, end=0.1)},
        clip_norm=1.0,
    ),
    Recipe(
        name="llama",
        source="Touvron et al. 2023 (arXiv:2307.09288), sec. 2.2: the rate of the 7 B model at batches of 4 M tokens",
        routes=(Route(rule="AdamW"),),
        defaults={"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-5, "weight_decay": 0.1},
        schedules={"lr": Cosine(warmup=2000, end=0.1)},
        clip_norm=1.0,
    ),
    Recipe(
        name="finetune",
        source="Mosbach et al. 2021 (arXiv:2006.04884): a small rate with bias correction, warm-up over a tenth, then "
        "linear to zero; decay of Devlin et al. 2019 (arXiv:1810.04805), clipping as Hugging Face's Trainer has it",
        routes=(Route(rule="AdamW"),),
        defaults={"lr": 2e-5, "weight_decay": 0.01},
        schedules={"lr": Linear(warmup=0.1)},
        clip_norm=1.0,
    ),
    Recipe(
        name="llrd",
        source="Clark et al. 2020 (arXiv:2003.10555), app. B, table 7: fine-tuning ELECTRA-Base, batch 32; the head "
        "counts as a layer (their code counts one more than there are); clipping as in that code",
        routes=(Route(rule="AdamW"),),
        defaults={"lr": 1e-4, "eps": 1e-6, "weight_decay": 0.0},
        schedules={"lr": Linear(warmup=0.1)},
        layer_decay=0.8,
        clip_norm=1.0,
    ),
    Recipe(
        name="vit-finetune",
        source="He et al. 2021 (arXiv:2111.06377), table 9: fine-tuning a ViT, rate 1e-3 · batch/256 at batch 1024, "
        "warm-up 5 of 100 epochs",
        routes=(Route(rule="AdamW"),),
        defaults={"lr": 4e-3, "weight_decay": 0.05},
        schedules={"lr": Cosine(warmup=0.05)},
        layer_decay=0.75,
    ),
    Recipe(
        name="vit",
        source="Touvron et al. 2021 (arXiv:2012.12877), table 9: DeiT, rate 5e-4 · batch/512 at batch 1024, warm-up 5 "
        "of 300 epochs",
        routes=(Route(rule="AdamW"),),
        defaults={"lr": 1e-3, "weight_decay": 0.05},
        schedules={"lr": Cosine(warmup=5 / 300)},
    ),
    Recipe(
        name="resnet",
        source="Goyal et al. 2017 (arXiv:1706.02677), sec. 5.1: ImageNet, rate 0.1 · batch/256 at batch 256, warm-up "
        "5 of 90 epochs, a tenth at epochs 30, 60 and 80; batch norm undecayed",
        routes=(Route(rule="SGD"),),
        defaults={"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4},
        schedules={"lr": MultiStep(warmup=5 / 90, at=(30 / 90, 60 / 90, 80 / 90))},
    ),
    Recipe(
        name="t5-adafactor",
        source="Raffel et al. 2020 (arXiv:1910.10683), sec. 3.1: fine-tuning T5 at a constant 1e-3, relative to the "
        "size of the weights (Shazeer & Stern 2018, arXiv:1804.04235)",
        routes=(Route(rule="Adafactor"),),
        defaults={"lr": 1e-3, "relative_step": False, "scale_parameter": True},
        schedules={"lr": Constant()},
    ),
)  # fmt: skip

PRESETS: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _ALL})


def preset(name: str, *, beside: Iterable[str] = ()) -> Recipe:
    """The preset of that name; case and underscores do not matter. Raises ValueError with the nearest name, of the
    presets and of those that would have done `beside` them."""
    found = PRESETS.get(spelled(name))
    if found is None:
        known = list(dict.fromkeys((*PRESETS, *beside)))
        raise ValueError(f"unknown recipe {name!r}{nearest(str(name), known)}; recipes are {', '.join(known)}")
    return found


def spelled(name: str) -> str:
    """The name as presets are spelled."""
    return str(name).casefold().replace("_", "-")
