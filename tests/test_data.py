"""The embedded data: what is promised of each split, and where the rest is looked for."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench import data
from workbench.data import EMBEDDED, LAST, idx, split_indices

SIZES = {"calibration": 1024, "search": 2048, "test": 10_000}


@pytest.mark.parametrize(("split", "size"), SIZES.items())
def test_embedded_splits(split: str, size: int) -> None:
    images, labels = data.fashion_mnist(split)
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == (
        (size, 1, 28, 28),
        torch.float32,
        (size,),
        torch.int64,
    )
    assert (images.min().item(), images.max().item()) == (0.0, 1.0)
    assert labels.unique().tolist() == list(range(10))
    assert labels.bincount().min() > size / 15
    assert torch.equal((images * 255).round() / 255, images)


def test_the_test_set_is_balanced() -> None:
    assert data.fashion_mnist("test")[1].bincount().tolist() == [1000] * 10


def test_the_splits_do_not_meet() -> None:
    held_out = np.concatenate(list(split_indices().values()))
    assert sorted(held_out) == list(range(LAST, 60_000))


def test_the_file_is_small_and_holds_its_notice() -> None:
    assert EMBEDDED.stat().st_size <= 6_500_000
    assert (
        "MIT License" in (EMBEDDED.parent / "LICENSE-fashion-mnist").read_text()
        or "Permission is hereby granted" in (EMBEDDED.parent / "LICENSE-fashion-mnist").read_text()
    )


@pytest.mark.parametrize("split", ["val", "", "Test", None])
def test_an_unknown_split(split: str) -> None:
    with pytest.raises(
        ValueError, match=r"has no split .*; choose one of 'calibration', 'search', 'test', 'tune', 'train'"
    ):
        data.fashion_mnist(split)


def _write(folder: Path, images: np.ndarray, labels: np.ndarray, *, zipped: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(idx.NAMES["train"], (images, labels), strict=True):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        content = head + array.tobytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content)) if zipped else (folder / name).write_bytes(content)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", ["", "FashionMNIST/raw"])
def test_training_images_from_a_folder_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str, zipped: bool
) -> None:
    labels = (np.arange(60_000) % 10).astype(np.uint8)
    images = np.zeros((60_000, 28, 28), np.uint8)
    images[:, 0, 0] = labels
    _write(tmp_path / inside, images, labels, zipped=zipped)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    train, classes = data.fashion_mnist("train")
    assert train.shape == (55_000, 1, 28, 28)
    assert torch.equal((train[:, 0, 0, 0] * 255).round().long(), classes)
    assert len(data.fashion_mnist("tune")[0]) == 1928


def test_the_embedded_images_are_the_training_images_of_their_indices() -> None:
    try:
        images, labels = idx.training_set()
    except FileNotFoundError:
        pytest.skip("needs 'apt install dataset-fashion-mnist'")
    for split in ("calibration", "search"):
        found, classes = data.fashion_mnist(split)
        assert np.array_equal((found[:, 0] * 255).round().byte().numpy(), images[split_indices()[split]])
        assert np.array_equal(classes.numpy(), labels[split_indices()[split]])


def test_no_files_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(idx, "folders", lambda: [tmp_path])
    with pytest.raises(FileNotFoundError, match="'apt install dataset-fashion-mnist', or set WORKBENCH_DATA"):
        data.fashion_mnist("train")


def test_a_file_that_is_no_idx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / idx.NAMES["train"][0]).write_bytes(b"<html>not found</html>")
    monkeypatch.setattr(idx, "folders", lambda: [tmp_path])
    with pytest.raises(ValueError, match="is not an IDX file of unsigned bytes"):
        data.fashion_mnist("train")
