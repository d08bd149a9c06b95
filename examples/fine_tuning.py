"""Fine-tuning with layer-wise rates: each block learns 0.7 times as fast as the one above it, the head fastest."""

import torch
from sklearn.datasets import load_digits
from sklearn.utils import shuffle
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import stepwell


class Reader(nn.Module):
    """A transformer that reads an image of 8 × 8 pixels row by row."""

    def __init__(self, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.02 * torch.randn(8, width))
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, depth)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Images (samples, 8, 8) → logits (samples, 10)."""
        return self.head(self.blocks(self.embed(images) + self.position).mean(1))


def fit(model: nn.Module, images: Tensor, labels: Tensor, recipe: stepwell.Recipe, steps: int) -> None:
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
    """Train on upright digits, fine-tune on 300 that lie, and return the share of others that are then read right."""
    torch.manual_seed(0)
    pixels, labels = shuffle(*load_digits(return_X_y=True), random_state=0)
    upright, labels = torch.tensor(pixels / 16, dtype=torch.float32).unflatten(1, (8, 8)), torch.tensor(labels)
    lying = upright.transpose(1, 2)
    model = Reader()
    fit(model, upright[:1000], labels[:1000], stepwell.Recipe.preset("adamw").set(lr=3e-3), steps=200)
    model.head = nn.Linear(32, 10)  # a new one, as in every fine-tuning
    recipe = stepwell.Recipe.preset("llrd").set(lr=3e-3, weight_decay=0.01).replace(layer_decay=0.7)
    fit(model, lying[1000:1300], labels[1000:1300], recipe, steps=120)
    with torch.no_grad():
        accuracy = (model(lying[1300:]).argmax(1) == labels[1300:]).float().mean().item()
    print(f"{accuracy:.1%} of the lying digits")
    return accuracy


if __name__ == "__main__":
    main()
