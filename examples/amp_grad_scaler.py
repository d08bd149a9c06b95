"""Half precision with a GradScaler: gradients are unscaled and clipped inside the optimizer's own pass over them."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

import stepwell

EPOCHS = 4
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(DEVICE)

    # No scaler.unscale_ and no clip_grad_norm_: clip_norm is the norm of the true gradients.
    recipe = stepwell.Recipe.preset("adamw").set(lr=5e-3).replace(clip_norm=1.0)
    plan = stepwell.plan(model, recipe, horizon=stepwell.horizon(loader, epochs=EPOCHS))
    optimizer = plan.build_optimizer()
    scheduler = plan.build_scheduler(optimizer, counts="steps")  # a step that the scaler leaves out does not count
    scaler = torch.amp.GradScaler(DEVICE)

    for _ in range(EPOCHS):
        for images, labels in loader:
            with torch.autocast(DEVICE, dtype=torch.float16):
                loss = cross_entropy(model(images.to(DEVICE)), labels.to(DEVICE))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            optimizer.zero_grad()

    images, labels = test[:]
    with torch.no_grad():
        accuracy = (model(images.to(DEVICE)).argmax(1).cpu() == labels).float().mean().item()
    print(f"{accuracy:.1%} after {scheduler.last_epoch} steps, and {optimizer.skipped} left out")
    return accuracy


if __name__ == "__main__":
    main()
