"""``Methods``: which ways of making a layer smaller a search may take."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from workbench.factorize import Method, SpatialSVD, Tucker, WeightSVD

RANKS: dict[str, tuple[Method, ...]] = {
    "spatial_svd": (SpatialSVD(),), "weight_svd": (WeightSVD(), WeightSVD(point_first=True)), "tucker": (Tucker(),),
}  # fmt: skip


@dataclass(frozen=True)
class Methods:
    """Channels leave, or layers become products of smaller ones, or both.

    Parameters
    ----------
    channels : channels may leave
    spatial_svd : a k_h x k_w convolution may become k_h x 1 and 1 x k_w
    weight_svd : a linear layer may become two, a convolution k x k and 1 x 1, or the other way round
    tucker : a convolution may become 1 x 1, k x k and 1 x 1

    Raises
    ------
    ValueError
        None is allowed.

    Examples
    --------
    >>> Methods(channels=False, tucker=False)
    Methods(spatial_svd, weight_svd)
    """

    channels: bool = True
    spatial_svd: bool = True
    weight_svd: bool = True
    tucker: bool = True

    def __post_init__(self) -> None:
        if not any(asdict(self).values()):
            raise ValueError(f"no method is left; allow at least one of {', '.join(asdict(self))}")

    def __repr__(self) -> str:
        return f"Methods({', '.join(name for name, allowed in asdict(self).items() if allowed)})"

    @property
    def ranks(self) -> tuple[Method, ...]:
        """Those that lower a rank."""
        allowed = asdict(self)
        return tuple(method for name, some in RANKS.items() if allowed[name] for method in some)

    @property
    def names(self) -> list[str]:
        """``channels`` where they may leave, and those that lower a rank as a plan spells them."""
        return [*(["channels"] if self.channels else []), *(method.name for method in self.ranks)]

    @classmethod
    def parse(cls, text: str) -> Methods:
        """Read ``channels,spatial_svd``; raises as :meth:`of`."""
        return cls.of(*(name.strip() for name in text.split(",")))

    @classmethod
    def of(cls, *names: str) -> Methods:
        """Those of these names and no other.

        Raises
        ------
        ValueError
            There is no such method.

        Examples
        --------
        >>> Methods.of("channels", "spatial_svd")
        Methods(channels, spatial_svd)
        """
        allowed = [field.name for field in fields(cls)]
        wrong = [name for name in names if name not in allowed]
        if wrong:
            raise ValueError(f"there is no method {wrong[0]!r}; choose from {', '.join(allowed)}")
        return cls(**{name: name in names for name in allowed})


CHANNELS = Methods.of("channels")
