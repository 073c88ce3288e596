"""Trains the embedded networks: ``python -m workbench.zoo.train vgg resnet20 mobilenetv2 vit``.

The first 55,000 training images with random shifts, mirroring and erased squares; a one-cycle learning rate. Nothing is
chosen on the test set, which is scored once, at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from workbench import zoo
from workbench.data import fashion_mnist


@dataclass(frozen=True)
class Recipe:
    """How one network is trained."""

    epochs: int = 40
    rate: float = 0.1
    decay: float = 5e-4
    adam: bool = False
    erase: bool = True
    bfloat16: bool = True  # slower than float32 for depthwise convolutions
    batch: int = 128


RECIPES = {
    "vgg": Recipe(epochs=30),
    "resnet20": Recipe(epochs=25, rate=0.15),
    "mobilenetv2": Recipe(epochs=30, rate=0.15, decay=1e-4, bfloat16=False),
    "vit": Recipe(epochs=20, rate=1.5e-3, decay=0.05, adam=True, erase=False),
}


def augment(images: Tensor, generator: torch.Generator, erase: bool = True) -> Tensor:
    """Shift by up to two pixels, mirror half of the images, erase a 7 x 7 square in half of them."""
    count, _, height, width = images.shape

    def draw(high: int) -> Tensor:
        return torch.randint(high, (count, 1), generator=generator)

    rows, columns = torch.arange(height) + draw(5), torch.arange(width) + draw(5)
    columns = torch.where(draw(2).bool(), columns.flip(1), columns)
    padded = F.pad(images, (2, 2, 2, 2))
    each = torch.arange(count)[:, None, None]
    shifted = padded[each, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)
    if not erase:
        return shifted
    inside_rows = (torch.arange(height) - draw(height)).abs() <= 3
    inside_columns = (torch.arange(width) - draw(width)).abs() <= 3
    erased = inside_rows[:, None, :, None] & inside_columns[:, None, None, :] & draw(2).bool()[:, :, None, None]
    return shifted.masked_fill(erased, 0.0)


def optimizer_for(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW; no decay on biases and norms."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    sets = [{"params": decayed, "weight_decay": recipe.decay}, {"params": plain, "weight_decay": 0.0}]
    if recipe.adam:
        return torch.optim.AdamW(sets, lr=recipe.rate)
    return torch.optim.SGD(sets, lr=recipe.rate, momentum=0.9, nesterov=True)


def accuracy(model: nn.Module, split: str) -> float:
    """The share of one split's images that the model names rightly."""
    images, labels = fashion_mnist(split)
    model.eval()
    with torch.inference_mode():
        hits = [model(x).argmax(1).eq(y) for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return torch.cat(hits).float().mean().item()


def train(name: str, recipe: Recipe, seed: int = 0) -> nn.Module:
    """A freshly trained network."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = zoo.build(name).to(memory_format=torch.channels_last)
    images, labels = fashion_mnist("train")
    optimizer = optimizer_for(model, recipe)
    steps = len(images) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.epochs * steps, pct_start=0.15
    )
    for epoch in range(recipe.epochs):
        model.train()
        start, total = time.perf_counter(), 0.0
        order = torch.randperm(len(images), generator=generator)
        for drawn in order[: steps * recipe.batch].split(recipe.batch):
            batch = augment(images[drawn], generator, recipe.erase).to(memory_format=torch.channels_last)
            with fast_arithmetic(recipe):
                loss = F.cross_entropy(model(batch).float(), labels[drawn])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() / steps
        print(f"{name} epoch {epoch + 1}: loss {total:.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    return model.to(memory_format=torch.contiguous_format)


@contextlib.contextmanager
def fast_arithmetic(recipe: Recipe) -> Iterator[None]:
    """Autocast where the processor multiplies bfloat16 natively; attention by the kernel with the fastest backward."""
    native = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with torch.autocast("cpu", torch.bfloat16, enabled=native and recipe.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded networks on Fashion-MNIST.")
    parser.add_argument("names", nargs="+", choices=zoo.NAMES)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.names:
        recipe = RECIPES[name]
        if arguments.epochs:
            recipe = Recipe(**{**vars(recipe), "epochs": arguments.epochs})
        model = train(name, recipe)
        weights = {key: value.contiguous() for key, value in model.state_dict().items()}
        zoo.WEIGHTS.mkdir(exist_ok=True)
        save_file(weights, zoo.WEIGHTS / f"{name}.safetensors", metadata={"script": "workbench/zoo/train.py"})
        print(f"{name}: tune {accuracy(model, 'tune'):.4f}, test {accuracy(model, 'test'):.4f}", flush=True)


if __name__ == "__main__":
    main()
