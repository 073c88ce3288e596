"""Fashion-MNIST, embedded: enough of it to calibrate, to search and to report without a download.

The images are Zalando SE's, under the MIT licence; the notice is in ``LICENSE-fashion-mnist`` beside this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.data import idx

if TYPE_CHECKING:
    import torch

EMBEDDED = Path(__file__).parent / "fashion_mnist.npz"
SPLITS = ("calibration", "search", "test", "tune", "train")


def fashion_mnist(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and labels of one split of Fashion-MNIST.

    ``"test"``
        all 10,000 test images. They report, they never choose.
    ``"calibration"``
        1,024 of the last 5,000 training images, which no shipped network was trained on: for statistics and repair. On
        images that it was trained on a network is surer than elsewhere, and what is fitted there fits less elsewhere.
    ``"search"``
        2,048 others of the last 5,000: the score a search may see.
    ``"tune"``
        the last 1,928 of them: for tuning the workbench itself.
    ``"train"``
        the first 55,000 training images.

    The first three are inside the package. The last two read the original IDX files, from ``$WORKBENCH_DATA``, Debian's
    ``dataset-fashion-mnist`` or a torchvision download folder.

    Returns
    -------
    images : float32 ``[N, 1, 28, 28]``, from 0 to 1
    labels : int64 ``[N]``, from 0 to 9

    Raises
    ------
    ValueError
        The split has no such name.
    FileNotFoundError
        The IDX files are needed and in none of the three places.

    Examples
    --------
    >>> images, labels = fashion_mnist("search")
    >>> images.shape, labels.dtype
    (torch.Size([2048, 1, 28, 28]), torch.int64)
    """
    if split not in SPLITS:
        allowed = ", ".join(repr(name) for name in SPLITS)
        raise ValueError(f"Fashion-MNIST has no split {split!r}; choose one of {allowed}")
    if split in ("train", "tune"):
        images, labels = idx.training_set()
        kept = slice(None, LAST) if split == "train" else split_indices()["tune"]
        return _tensors(images[kept], labels[kept])
    with np.load(EMBEDDED, allow_pickle=False) as arrays:
        return _tensors(arrays[f"{split}_images"], arrays[f"{split}_labels"])


LAST = 55_000  # training images from here on are never trained on


def split_indices() -> dict[str, np.ndarray]:
    """Which of the 60,000 training images each drawn split holds."""
    held_out = LAST + np.random.default_rng(1).permutation(5_000)
    parts = np.split(held_out, np.cumsum([2048, 1024]))
    return {split: np.sort(part) for split, part in zip(("search", "calibration", "tune"), parts, strict=True)}


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    return torch.from_numpy(images).unsqueeze(1).float() / 255, torch.from_numpy(labels).long()
