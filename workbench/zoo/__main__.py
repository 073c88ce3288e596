"""Prints what the shipped networks cost and how good they are: ``python -m workbench.zoo [NAME ...]``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from workbench import data, zoo
from workbench.cost.count import count
from workbench.evaluation import whole_score
from workbench.zoo.task import test_score


def main(arguments: Sequence[str] | None = None) -> None:
    """One row a network: its parameters, its MACs, its accuracy on all test images."""
    parser = argparse.ArgumentParser(prog="python -m workbench.zoo", description="Score the shipped networks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(zoo.NAMES)} (default: all)")
    names = parser.parse_args(arguments).names or zoo.NAMES
    test, (images, _) = test_score(), data.fashion_mnist("test")
    print(f"{'network':<12} {'parameters':>10} {'MACs':>11} {'test accuracy':>13}")
    for name in names:
        model = zoo.load(name)
        cost, accuracy = count(model, images[:1]), whole_score(test, model).mean()
        print(f"{name:<12} {cost.params:>10,} {cost.macs:>11,} {accuracy:>13.2%}")


if __name__ == "__main__":
    main()
