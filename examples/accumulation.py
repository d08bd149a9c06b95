"""Accumulation: gradients of several small batches make one step, and the schedule is laid over steps, not batches."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

import stepwell

EPOCHS, BATCH_SIZE, ACCUMULATION = 8, 16, 4


def digits() -> list[Subset]:
    """Handwritten digits, images of 64 pixels and what they show: four fifths to train on, one to test."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32)
    return random_split(TensorDataset(images, torch.tensor(labels)), [0.8, 0.2])


def main() -> float:
    """Train, and return the share of test images that are read right."""
    torch.manual_seed(0)
    train, test = digits()
    loader = DataLoader(train, batch_size=BATCH_SIZE, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    # 90 batches are 22 steps of four batches, and one of the two that are left.
    steps = stepwell.horizon(loader, epochs=EPOCHS, accumulation=ACCUMULATION)
    optimizer, scheduler = stepwell.plan(model, stepwell.Recipe.preset("adamw").set(lr=5e-3), horizon=steps).build()

    for _ in range(EPOCHS):
        samples = 0
        for index, (images, labels) in enumerate(loader, start=1):
            loss = cross_entropy(model(images), labels, reduction="sum")
            loss.backward()
            samples += len(labels)
            if index % ACCUMULATION == 0 or index == len(loader):
                for parameter in model.parameters():
                    parameter.grad /= samples  # the mean over all samples of the step, however many there are
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                samples = 0
    assert scheduler.last_epoch == steps

    images, labels = test[:]
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    print(f"{accuracy:.1%} after {steps} steps of {BATCH_SIZE * ACCUMULATION} images")
    return accuracy


if __name__ == "__main__":
    main()
