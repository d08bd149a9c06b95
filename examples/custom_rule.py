"""A rule of one's own in six lines: a fused kernel, weight decay, clipping, recipes and checkpoints come with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.utils import shuffle
from torch import nn
from torch.nn.functional import cross_entropy

import stepwell
from stepwell.algebra import absolute, sign

STEPS = 120


@dataclass(frozen=True, kw_only=True)
class Grams(stepwell.rules.AdamW):
    """AdamW's step in the direction of the gradient's sign (Cao et al. 2024, arXiv:2412.17107).

    θ = θ − η·(sign(g)·|m̂/(√v̂ + ε)| + λ·θ)
    """

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        step, slots = super().direction(p, g, s, h)
        return sign(g) * absolute(step), slots


def main() -> float:
    """Train, and return the share of held-out images that are read right."""
    torch.manual_seed(0)
    pixels, labels = shuffle(*load_digits(return_X_y=True), random_state=0)
    images, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    # By being a subclass it is known by its name, here and in recipes, checkpoints and on the command line.
    recipe = stepwell.Recipe(routes=stepwell.Route(rule="Grams"), defaults={"lr": 5e-3, "weight_decay": 0.1})
    optimizer = stepwell.create_optimizer(model, recipe, clip_norm=1.0)
    scheduler = stepwell.create_scheduler(optimizer, "wsd", horizon=STEPS, warmup=0.1)
    for _ in range(STEPS):
        batch = torch.randint(1440, (64,))
        cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()

    with torch.no_grad():
        accuracy = (model(images[1440:]).argmax(1) == labels[1440:]).float().mean().item()
    print(optimizer.kernel_source())
    print(f"{accuracy:.1%} after {STEPS} steps of the kernel above")
    return accuracy


if __name__ == "__main__":
    main()
