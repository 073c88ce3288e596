"""What the networks of the zoo do, as a study needs it: Fashion-MNIST, split by who may look at what."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from workbench import data, zoo
from workbench.evaluation import Evaluation
from workbench.study import Study


def study(name: str, **options: Any) -> Study:
    """A network of the zoo with the embedded data.

    Cross-entropy on the "search" images decides, accuracy on the "test" images reports; the calibration images come
    without labels. The options are those of ``Study``.

    Raises
    ------
    ValueError
        There is no such network.

    Examples
    --------
    >>> study("vgg")
    Study(vgg, 1024 calibration samples)
    """
    model = zoo.load(name)
    images, _ = data.fashion_mnist("calibration")
    return Study(
        model, images[:1], calibration=images.split(128), evaluate=search_score(), test=test_score(), name=name,
        **options,
    )  # fmt: skip


def search_score() -> Evaluation:
    """The log-likelihood of the right class on the images that a search may look at: finer than hits and misses."""
    return Evaluation(_batches("search", 256), log_likelihood, name="log-likelihood")


def test_score() -> Evaluation:
    """Hits on the 10,000 images that report and never choose."""
    return Evaluation(_batches("test", 500), hits, name="test accuracy")


def log_likelihood(output: Tensor, batch: Any) -> Tensor:
    """Of the right class, ``[N]`` in nats."""
    return -F.cross_entropy(output, batch[1], reduction="none")


def hits(output: Tensor, batch: Any) -> Tensor:
    """Whether the likeliest class is the right one, ``[N]``."""
    return output.argmax(1).eq(batch[1])


def _batches(split: str, size: int) -> list[Any]:
    return list(zip(*(tensor.split(size) for tensor in data.fashion_mnist(split)), strict=True))
