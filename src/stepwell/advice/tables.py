"""What is written about learning rates, decay and warm-up: numbers as data, each with where it stands.

Nothing here is measured by us; what is, `stepwell.measured` has. The lecture's tables are rules of thumb, taken over
as they are; where a paper or a library says something else, both stand here and both are given.
"""

from __future__ import annotations

from dataclasses import dataclass

LECTURE = "lecture 'Optimizer and LR Schedule'"


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, and who says so."""

    low: float
    high: float
    source: str


LEARNING_RATES: dict[str, Range] = {
    "sgd": Range(0.1, 1.0, f"{LECTURE}, learning-rate range: SGD (no momentum)"),
    "sgd-momentum": Range(0.01, 0.1, f"{LECTURE}, learning-rate range: SGD with momentum"),
    "adam": Range(1e-4, 1e-3, f"{LECTURE}, learning-rate range: Adam/AdamW"),
    "adamw": Range(1e-4, 1e-3, f"{LECTURE}, learning-rate range: Adam/AdamW"),
    "rmsprop": Range(1e-4, 1e-3, f"{LECTURE}, learning-rate range: RMSprop"),
    "adagrad": Range(0.01, 0.1, f"{LECTURE}, learning-rate range: AdaGrad"),
    "lion": Range(1e-4, 3e-4, f"{LECTURE}, learning-rate range: Lion"),
}

# A range of ours, as a multiple of AdamW's.
FROM_ADAMW: dict[str, tuple[Range, Range]] = {
    "lion": (
        Range(1 / 10, 1 / 3, "Chen et al. 2023, arXiv:2302.06675, sec. 5: 3-10 times smaller than AdamW's"),
        Range(3.0, 10.0, "Chen et al. 2023, arXiv:2302.06675, sec. 5: 3-10 times larger, so that lr · decay stays"),
    ),
    "muon": (
        Range(1.0, 1.0, "Liu et al. 2025, arXiv:2502.16982, sec. 2.2: AdamW's own; adjust_lr_fn='match_rms_adamw'"),
        Range(1.0, 1.0, "Liu et al. 2025, arXiv:2502.16982, sec. 2.2: AdamW's own"),
    ),
}
MUON_ORIGINAL = Range(0.02, 0.02, "Jordan et al. 2024, Muon: 0.02 with adjust_lr_fn='original'")

# Decay by the number of training samples: up to the first number, up to the second, above.
DECAY_BY_SAMPLES: tuple[tuple[float, str, Range], ...] = (
    (9_999, "small data set (< 10k samples)", Range(1e-3, 1e-3, f"{LECTURE}, λ by data set size")),
    (1_000_000, "medium data set (10k - 1M samples)", Range(1e-4, 1e-4, f"{LECTURE}, λ by data set size")),
    (float("inf"), "large data set (> 1M samples)", Range(1e-5, 1e-5, f"{LECTURE}, λ by data set size")),
)
DECAY_BY_ARCHITECTURE = {"cnn": 1.0, "transformer": 0.1, "resnet": 0.5}
DECAY_BY_DATA = {"simple": 2.0, "complex": 0.5}
DECAY_SHORT, DECAY_LONG = (20, 0.5), (100, 2.0)  # epochs, factor: below the one, above the other
DECAY_SOURCE = f"{LECTURE}, λ adjustment"

# What AdamW's decay is in practice: decoupled, and multiplied by the rate at every step.
DECAY_IN_USE: tuple[Range, ...] = (
    Range(0.01, 0.01, "torch.optim.AdamW, its default"),
    Range(0.1, 0.1, "Brown et al. 2020, arXiv:2005.14165, app. B: GPT-3"),
)
TIMESCALE = "Wang & Aitchison 2024, arXiv:2405.13698: weights average over 1 / (lr · λ) steps"

WARMUP_BY_MODEL: dict[str, tuple[str, Range]] = {
    "cnn": ("CNN", Range(0.05, 0.05, f"{LECTURE}, warm-up by model type")),
    "resnet": ("CNN", Range(0.05, 0.05, f"{LECTURE}, warm-up by model type")),
    "transformer": ("Transformer", Range(0.10, 0.10, f"{LECTURE}, warm-up by model type")),
}
WARMUP_FINE_TUNING = Range(0.06, 0.06, f"{LECTURE}, warm-up by model type: fine-tuning")
WARMUP_TRANSFER = Range(0.03, 0.05, f"{LECTURE}, warm-up by model type: transfer learning")
WARMUP_SMALL_DATA = Range(0.03, 0.05, f"{LECTURE}, warm-up by model type: small datasets")
WARMUP_LARGE_BATCH = (1000, Range(0.15, 0.20, f"{LECTURE}, warm-up by model type: large batch size > 1000"))
WARMUP_UNSTABLE = (0.05, f"{LECTURE}, warm-up: unstable training, increase by 5 %")
WARMUP_UNTUNED = "Ma & Yarats 2021, arXiv:1910.04209: 2 / (1 − β₂) steps for Adam"

STEP_DECAY_EVERY = Range(2000, 4000, f"{LECTURE}, step decay: step_size")
STEP_DECAY_GAMMA = Range(0.1, 0.5, f"{LECTURE}, step decay: gamma")

# The learning rate of another batch size.
BATCH_SQRT = f"{LECTURE}: a batch twice as large, lr · √2; for Adam derived by Malladi et al. 2022, arXiv:2205.10287"
BATCH_LINEAR = "Goyal et al. 2017, arXiv:1706.02677, sec. 2.1: linear, for SGD"

RATE_DEEPER = (0.5, f"{LECTURE}, adjustments: deeper network")
RATE_FINE_TUNING = (0.1, f"{LECTURE}, adjustments: fine-tuning")
RATE_UNSTABLE = (0.1, f"{LECTURE}, adjustments: unstable training")

# The preset whose runs tell of an optimizer that is called otherwise here; plain SGD and Adam were not run.
MEASURED_AS = {"sgd": "", "sgd-momentum": "sgd"}
MEASURED_CAUTION = "found with small models in short runs: where to start on tasks like these"
