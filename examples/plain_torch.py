"""A plain PyTorch loop: a plan to read before step 0, one optimizer for two rules, and a schedule that ends on time."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

import stepwell

EPOCHS = 6


def digits() -> list[Subset]:
    """Handwritten digits, images of 64 pixels and what they show: four fifths to train on, one to test."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32)
    return random_split(TensorDataset(images, torch.tensor(labels)), [0.8, 0.2])


def main() -> float:
    """Train, and return the share of test images that are read right."""
    torch.manual_seed(0)
    train, test = digits()
    loader = DataLoader(train, batch_size=32, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    # Muon for the hidden matrices, AdamW for the head and the biases, a warm-up and a cosine for both.
    recipe = stepwell.Recipe.preset("muon").set(lr=5e-3).replace(clip_norm=1.0)
    plan = stepwell.plan(model, recipe, horizon=stepwell.horizon(loader, epochs=EPOCHS))
    print(plan)
    optimizer, scheduler = plan.build()

    for _ in range(EPOCHS):
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    images, labels = test[:]
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    print(f"{accuracy:.1%} after {plan.horizon} steps")
    return accuracy


if __name__ == "__main__":
    main()
