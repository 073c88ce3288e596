"""Writes the embedded splits from the IDX files: ``python -m workbench.data.embed``."""

from __future__ import annotations

import numpy as np

from workbench.data import EMBEDDED, idx, split_indices


def main() -> None:
    images, labels = idx.training_set()
    arrays = dict(zip(("test_images", "test_labels"), idx.test_set(), strict=True))
    for split in ("calibration", "search"):
        drawn = split_indices()[split]
        arrays |= {f"{split}_images": images[drawn], f"{split}_labels": labels[drawn]}
    np.savez_compressed(EMBEDDED, **arrays)  # type: ignore[arg-type]  # numpy's stub takes ** for allow_pickle
    print(f"{EMBEDDED}: {EMBEDDED.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
