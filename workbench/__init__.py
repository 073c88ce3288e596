"""Structured compression for PyTorch models: measure what each layer can lose, decide, and rewrite.

The names below are the public face; each is imported when it is first used, so that ``import workbench`` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench import batch, data, sparsify, zoo
    from workbench.allocate import Unreachable, round_ranks
    from workbench.allocate.budget import Budget
    from workbench.artefact import restore
    from workbench.calibrate import Statistics
    from workbench.cost.count import Cost
    from workbench.cost.latency import LatencyTable
    from workbench.cost.measure import measure_latency
    from workbench.deploy import Exported, Int8, Quantized, export_onnx, export_program
    from workbench.errors import Refused
    from workbench.evaluation import Evaluation, Fidelity
    from workbench.finetuning import Finetuned, finetune
    from workbench.front import Front
    from workbench.graph.groups import ChannelGroup, Frozen, Member
    from workbench.graph.trace import ChannelGraph, Layer, trace
    from workbench.limits import Limits
    from workbench.manual import Ratio
    from workbench.methods import Methods
    from workbench.plan import Plan, Rank
    from workbench.refine import Refined, Refinement
    from workbench.report import compare
    from workbench.result import Result
    from workbench.sensitivity import SensitivityCurves
    from workbench.sparsify import Sparsifier, winnow_masked
    from workbench.study import Study, compress
    from workbench.verification import Verification, verify

_HOMES = {
    "workbench": ("batch", "data", "sparsify", "zoo"),
    "workbench.allocate": ("Unreachable", "round_ranks"),
    "workbench.allocate.budget": ("Budget",),
    "workbench.artefact": ("restore",),
    "workbench.calibrate": ("Statistics",),
    "workbench.cost.count": ("Cost",),
    "workbench.cost.latency": ("LatencyTable",),
    "workbench.cost.measure": ("measure_latency",),
    "workbench.deploy": ("Exported", "Int8", "Quantized", "export_onnx", "export_program"),
    "workbench.errors": ("Refused",),
    "workbench.evaluation": ("Evaluation", "Fidelity"),
    "workbench.finetuning": ("Finetuned", "finetune"),
    "workbench.front": ("Front",),
    "workbench.graph.groups": ("ChannelGroup", "Frozen", "Member"),
    "workbench.graph.trace": ("ChannelGraph", "Layer", "trace"),
    "workbench.limits": ("Limits",),
    "workbench.manual": ("Ratio",),
    "workbench.methods": ("Methods",),
    "workbench.plan": ("Plan", "Rank"),
    "workbench.refine": ("Refined", "Refinement"),
    "workbench.report": ("compare",),
    "workbench.result": ("Result",),
    "workbench.sensitivity": ("SensitivityCurves",),
    "workbench.sparsify": ("Sparsifier", "winnow_masked"),
    "workbench.study": ("Study", "compress"),
    "workbench.verification": ("Verification", "verify"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Budget", "ChannelGraph", "ChannelGroup", "Cost", "Evaluation", "Exported", "Fidelity", "Finetuned", "Front",
    "Frozen", "Int8", "LatencyTable", "Layer", "Limits", "Member", "Methods", "Plan", "Quantized", "Rank", "Ratio",
    "Refined", "Refinement", "Refused", "Result", "SensitivityCurves", "Sparsifier", "Statistics", "Study",
    "Unreachable", "Verification", "batch", "compare", "compress", "data", "export_onnx", "export_program", "finetune",
    "measure_latency", "restore", "round_ranks", "sparsify", "trace", "verify", "winnow_masked", "zoo",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    home = _HOME[name]
    found = import_module(f"{home}.{name}") if home == "workbench" else getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
