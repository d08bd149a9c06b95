"""A ViT of timm in timm's style: mixup, smoothed labels, stochastic depth, DeiT's recipe, an average of the weights."""

import torch
from sklearn.datasets import load_digits
from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

import stepwell

EPOCHS = 8


def digits() -> list[Subset]:
    """Handwritten digits, images (1, 8, 8) and what they show: four fifths to train on, one to test."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return random_split(TensorDataset(images, torch.tensor(labels)), [0.8, 0.2])


def main() -> float:
    """Train, and return the share of test images that the averaged weights read right."""
    torch.manual_seed(0)
    train, test = digits()
    loader = DataLoader(train, batch_size=32, shuffle=True, drop_last=True)
    sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 48, "depth": 2, "num_heads": 4}
    model = VisionTransformer(**sizes, num_classes=10, drop_path_rate=0.05)
    mixup = Mixup(mixup_alpha=0.2, label_smoothing=0.1, num_classes=10)
    criterion = SoftTargetCrossEntropy()

    # DeiT's recipe, at a rate for so small a model; the average of weights is part of the rule.
    recipe = stepwell.Recipe.preset("vit").set(lr=4e-3).replace(clip_norm=1.0)
    averaged = stepwell.ema(stepwell.rules.AdamW(), decay=0.98)
    plan = stepwell.plan(model, recipe.replace(routes=stepwell.Route(rule=averaged)), horizon=EPOCHS * len(loader))
    print(plan)
    optimizer, scheduler = plan.build()
    for _ in range(EPOCHS):
        for images, labels in loader:
            images, targets = mixup(images, labels)
            loss = criterion(model(images), targets)
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    images, labels = test[:]
    model.eval()
    with torch.no_grad(), optimizer.averaged():
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    print(f"{accuracy:.1%} after {plan.horizon} steps")
    return accuracy


if __name__ == "__main__":
    main()
