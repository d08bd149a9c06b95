"""Schedule-Free: no schedule and no horizon; evaluate on the average of the weights whenever you like."""

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


@torch.no_grad()
def accuracy(model: nn.Module, test: Subset) -> float:
    """The share of test images that are read right."""
    images, labels = test[:]
    return (model(images).argmax(1) == labels).float().mean().item()


def main() -> float:
    """Train, and return the share of test images that the averaged weights read right."""
    torch.manual_seed(0)
    train, test = digits()
    loader = DataLoader(train, batch_size=32, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = stepwell.ScheduleFreeAdamW(model.parameters(), lr=1e-2, warmup_steps=20)

    for epoch in range(EPOCHS):
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        latest = accuracy(model, test)
        with optimizer.averaged():  # the weights to use; those to train on are back afterwards, to the bit
            averaged = accuracy(model, test)
        print(f"epoch {epoch}: {averaged:.1%}, the latest weights {latest:.1%}")

    optimizer.eval()  # leave the averaged weights in the model, to be saved and used
    return accuracy(model, test)


if __name__ == "__main__":
    main()
