"""Fashion-MNIST's original IDX files, wherever this machine has them."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def folders() -> list[Path]:
    """Where the files are looked for, in this order."""
    given = [Path(os.environ["WORKBENCH_DATA"])] if os.environ.get("WORKBENCH_DATA") else []
    raw = Path("FashionMNIST") / "raw"  # in the root of a torchvision download
    return [
        *given, *(folder / raw for folder in given),
        Path("/usr/share/datasets/fashion-mnist"), "data" / raw, Path.home() / "data" / raw,
    ]  # fmt: skip


def training_set() -> tuple[np.ndarray, np.ndarray]:
    """The 60,000 training images, uint8 ``[60000, 28, 28]``, and their labels, uint8 ``[60000]``."""
    return _pair("train")


def test_set() -> tuple[np.ndarray, np.ndarray]:
    """The 10,000 test images, uint8 ``[10000, 28, 28]``, and their labels, uint8 ``[10000]``."""
    return _pair("test")


def _pair(which: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (_read(_find(name)) for name in NAMES[which])
    return images, labels


def _find(name: str) -> Path:
    for folder in folders():
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    looked = ", ".join(str(folder) for folder in folders())
    raise FileNotFoundError(
        f"Fashion-MNIST's file {name!r} (or .gz) is in none of: {looked}. Install Debian's package with "
        "'apt install dataset-fashion-mnist', or set WORKBENCH_DATA to a folder with the IDX files or to the root "
        "of a torchvision download (the folder that holds FashionMNIST/raw)"
    )


def _read(path: Path) -> np.ndarray:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        content = file.read()
    if content[:3] != b"\x00\x00\x08":  # two zero bytes, then 0x08: unsigned bytes
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()
