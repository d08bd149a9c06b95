"""LoRA with peft: the frozen weights are left alone, and B learns 16 times as fast as A, as LoRA+ has it."""

import torch
from peft import LoraConfig, get_peft_model
from sklearn.datasets import load_digits
from sklearn.utils import shuffle
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import stepwell
from stepwell import Recipe, Route, select

# Hayou et al. 2024, arXiv:2402.12354: B, which starts at zero, wants the larger rate.
LORA_PLUS = Recipe(
    routes=(
        Route(rule="AdamW", name="B", select=select.name("*.lora_B.*"), hyper_parameters={"lr": 16 * 1e-3}),
        Route(rule="AdamW", name="A", select=select.name("*.lora_A.*"), hyper_parameters={"lr": 1e-3}),
    ),
    schedules={"lr": "Cosine(warmup=0.1)"},
    clip_norm=1.0,
)


def fit(model: nn.Module, images: Tensor, labels: Tensor, recipe: str | Recipe, steps: int) -> None:
    """Train the model under the recipe, on 64 images a step."""
    plan = stepwell.plan(model, recipe, horizon=steps)
    print(plan)
    optimizer, scheduler = plan.build()
    for _ in range(steps):
        batch = torch.randint(len(images), (64,))
        cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


def main() -> float:
    """Train on upright digits, adapt to lying ones, and return the share of those that are then read right."""
    torch.manual_seed(0)
    pixels, labels = shuffle(*load_digits(return_X_y=True), random_state=0)
    upright, labels = torch.tensor(pixels / 16, dtype=torch.float32).unflatten(1, (8, 8)), torch.tensor(labels)
    lying = upright.transpose(1, 2)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    fit(model, upright[:1400], labels[:1400], "adamw", steps=200)
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["1", "3"]))
    adapted.print_trainable_parameters()
    fit(adapted, lying[:1400], labels[:1400], LORA_PLUS, steps=150)
    with torch.no_grad():
        accuracy = (adapted(lying[1400:]).argmax(1) == labels[1400:]).float().mean().item()
    print(f"{accuracy:.1%} of the lying digits")
    return accuracy


if __name__ == "__main__":
    main()
