"""Draws the figures of concepts.md with the package's own plots. Equal runs give equal bytes."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

import workbench as wb

FIGURES = Path(__file__).parent / "figures"
HALF = wb.Budget(macs=0.5)


def main() -> None:
    """Curves, heat map, widths and front of the shipped VGG."""
    mpl.use("agg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "workbench", "figure.figsize": (8, 4)}
    images, _ = wb.data.fashion_mnist("calibration")
    study = wb.Study(wb.zoo.load("vgg"), images[:1], calibration=images[:256])
    curves = study.sensitivity("measured")
    plots = {
        "curves": curves.plot,
        "heat": curves.plot_heat,
        "widths": study.allocate(HALF).plot,
        "front": study.front("macs", 50).plot,
    }
    for name, plot in plots.items():
        plot().figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
