"""What happens in a worker: it loads the exported model once, and scores candidates that lie in files beside it.

A task is a folder, the names of some candidates, and a block of samples. The folder holds nothing but what the search
itself wrote: the program, how it is judged, and a file a candidate.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from workbench.errors import Refused
from workbench.evaluation import whole_score
from workbench.graph.inputs import device_of
from workbench.graph.masked import survivors
from workbench.graph.program import Program, load_program, save_program
from workbench.graph.provenance import Provenance, follow
from workbench.graph.record import Cut
from workbench.graph.trace import ChannelGraph
from workbench.sensitivity.candidate import Candidate
from workbench.sensitivity.run import Scores, one_thread, score, score_whole
from workbench.sensitivity.sample import Sample
from workbench.whole import whole_file

Judge = Sample | Callable[[nn.Module], Any]  # an evaluation's data in blocks, or the user's own function

PROGRAM, JUDGE, SIGNATURE = "program.pt2", "judge.pickle", "signature.json"


@dataclass(frozen=True)
class Loaded:
    """A worker's own copy of what is searched."""

    program: Program
    provenance: Provenance
    model: nn.Module
    judge: Judge


def write(folder: Path, graph: ChannelGraph, judge: Judge) -> None:
    """What all tasks share.

    Raises
    ------
    Refused
        The model cannot be written, or another process cannot import the evaluation.
    """
    save_program(graph.model, graph.program.example(graph.inputs), folder / PROGRAM)
    signature = {"head_dim": graph.provenance.atoms.head_dim, "ops": _ops(graph.program)}
    (folder / SIGNATURE).write_text(json.dumps(signature))
    try:
        (folder / JUDGE).write_bytes(pickle.dumps(judge))
    except Exception as error:  # whatever the evaluation holds raises what it likes
        raise Refused(
            "workers", "", f"the evaluation cannot be sent to another process ({error})", "define its functions at the "
            "top of a module that can be imported and let it hold no open files, or leave workers= out",
        ) from error  # fmt: skip


def write_candidate(folder: Path, candidate: Candidate) -> str:
    """Its tensors and cuts; the name under which a task asks for it."""
    name = hashlib.sha256(str(candidate.widths).encode()).hexdigest()[:16] + ".safetensors"
    place = folder / name
    if not place.exists():
        cuts = [asdict(cut) for cut in candidate.cuts]
        facts = {"widths": candidate.widths, "first": candidate.first, "cuts": cuts}
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in candidate.tensors.items()}
        with whole_file(place) as beside:
            save_file(tensors, beside, {"candidate": json.dumps(facts)})
    return name


def deaf() -> None:
    """Leave an interrupt to the process that hands out the tasks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def ready(folder: str) -> np.ndarray | None:
    """Load what all tasks share; what the user's own function says of the exported model."""
    with one_thread():
        loaded = _loaded(folder)
        return None if isinstance(loaded.judge, Sample) else whole_score(loaded.judge, loaded.model)


def run(folder: str, names: Sequence[str], block: int) -> list[Scores]:
    """The scores of some candidates on a block of samples."""
    with one_thread():
        loaded = _loaded(folder)
        candidates = [_candidate(Path(folder) / name, loaded) for name in names]
        judge = loaded.judge
        if isinstance(judge, Sample):
            return score(loaded.program, candidates, judge.evaluate, judge.batches(block))
        return score_whole(loaded.model, candidates, judge)


@lru_cache(maxsize=1)
def _loaded(folder: str) -> Loaded:
    program, inputs, model = load_program(Path(folder) / PROGRAM)
    signature = json.loads((Path(folder) / SIGNATURE).read_text())
    if _ops(program) != signature["ops"]:
        raise RuntimeError("the exported program is not the traced one; is PyTorch's version the same everywhere?")
    judge = pickle.loads((Path(folder) / JUDGE).read_bytes())
    return Loaded(program, follow(program, inputs, signature["head_dim"]), model, judge)


def _ops(program: Program) -> list[str]:
    return [f"{node.name} {node.target}" for node in program.nodes]


def _candidate(path: Path, loaded: Loaded) -> Candidate:
    with safe_open(path, "pt", device=str(device_of(loaded.program.tensors.values()))) as file:
        facts = json.loads(file.metadata()["candidate"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    cuts = tuple(Cut(**{**cut, "kept": tuple(cut["kept"])}) for cut in facts["cuts"])
    stays = survivors(loaded.provenance, cuts)
    return Candidate(tuple(map(tuple, facts["widths"])), tensors, facts["first"], cuts, stays)
