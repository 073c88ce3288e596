"""From a float ONNX file to an int8 one: quantise, and keep each further step only where held-out outputs gain."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from workbench.deploy.correct import corrected
from workbench.deploy.equalize import equalized
from workbench.deploy.int8 import Int8, Quantized, Step
from workbench.deploy.mixed import mixed
from workbench.deploy.session import Arguments, Served, Session
from workbench.deploy.weights import attends, unfit
from workbench.errors import Refused
from workbench.evaluation import Fidelity, name_of, scores_of
from workbench.graph.inputs import Inputs

if TYPE_CHECKING:
    import onnx

OPSET = 13  # the first with a scale for each channel
FAR = 0.01  # relative error of a float file on the data by which int8 is judged


class Quantizer:
    """The float model of a file, and int8 models made of it in a folder.

    Parameters
    ----------
    source : the float file
    model : what it was exported from
    example : inputs with which it was exported
    int8 : what is asked for
    folder : for files that nobody else sees

    Raises
    ------
    ValueError
        The calibration data has other inputs than the example.
    """

    def __init__(self, source: Path, model: nn.Module, example: Inputs, int8: Int8, folder: Path):
        import onnx

        self.source, self.eager, self.int8, self.folder = source, model, int8, folder
        self.float = onnx.load(source)
        self.unfit = unfit(self.float)
        like = Arguments(model, example).like
        self.fit, self.held_out = ([like(inputs) for inputs in part] for part in int8.split())
        self.fidelity = Fidelity(self.held_out, inputs=_itself, kind="error")

    def run(self, target: Path) -> Quantized:
        """Write the best int8 file, and say what it costs.

        Raises
        ------
        ValueError
            A limit is asked for, and the model has attention.
        Refused
            The float file gives other numbers for the calibration data, or onnxruntime cannot quantise it.
        """
        import onnx

        error = -float(np.median(self._scores(self.fidelity, self.float)))  # a sample that gives zeros has none
        if not error <= FAR:
            raise Refused(
                "int8", type(self.eager).__name__, "the float file gives other numbers than the eager model for the "
                f"calibration data (by {error:.1e}, relative)", "give example inputs like the calibration data",
            )  # fmt: skip
        dynamic = attends(self.float) if self.int8.dynamic is None else self.int8.dynamic
        if dynamic and (self.int8.at_most is not None or self.int8.size_bytes is not None):
            raise ValueError(
                "the model has attention, whose scales are found in each run; at_most= and size_bytes= cannot be kept "
                "then: give dynamic=False, or leave them out"
            )
        if dynamic:
            model, left, steps = self._dynamically()
        else:
            model, left, steps = self._static()
        onnx.save(model, target)
        last = next(step for step in reversed(steps) if step.used)
        scores = {"float": self.score(self.float), "int8": last.score}
        samples = sum(some.batch or 1 for some in self.held_out)
        score = name_of(self.int8.evaluate or self.fidelity)
        return Quantized(dynamic, last.error, tuple(steps), left, score, scores, samples)

    def _dynamically(self) -> tuple[onnx.ModelProto, tuple[str, ...], list[Step]]:
        model = self._dynamic()
        return model, (), [self._step("dynamic", model)]

    def _static(self) -> tuple[onnx.ModelProto, tuple[str, ...], list[Step]]:
        """The int8 model, the layers that are float in it, and what was tried.

        Biases come last: they make good what the rounding of weights does, and which are rounded is known then.
        """
        source, model = self.float, self.static(self.float)
        left: tuple[str, ...] = ()
        steps = [best := self._step("static", model)]
        changed, bundles = equalized(source, lambda model, names: self._over(model, names, _largest, np.maximum))
        if bundles:
            other = self.static(changed)
            steps.append(step := self._judged("equalised", other, best))
            source, model, best = (changed, other, step) if step.used else (source, model, best)
        if self.int8.at_most is not None or self.int8.size_bytes is not None:
            model, left = mixed(self, source, model)
            best = self._step("layers in float", model)
            steps.append(replace(best, used=bool(left)))
        other = self.static(corrected(source, model, self._means), without=left)
        steps.append(step := self._judged("bias corrected", other, best))
        return other if step.used else model, (*self.unfit, *left), steps

    def _means(self, probe: onnx.ModelProto, names: Sequence[str]) -> dict[str, np.ndarray]:
        samples = sum(some.batch or 1 for some in self.fit)
        return {name: total / samples for name, total in self._over(probe, names, _sums, np.add).items()}

    def _judged(self, name: str, model: onnx.ModelProto, best: Step) -> Step:
        """A step that is used where it lowers the error, and no score below a limit comes of it."""
        step, limit = self._step(name, model), self.int8.at_most
        held = limit is None or name == "equalised" or self.score(self.float) - step.score <= limit
        return replace(step, used=step.error < best.error and held)

    def _step(self, name: str, model: onnx.ModelProto) -> Step:
        return Step(name, self.error(model), self.score(model), True)

    def error(self, model: onnx.ModelProto) -> float:
        """The mean relative error of the held-out outputs."""
        return -float(self._scores(self.fidelity, model).mean())

    def score(self, model: onnx.ModelProto) -> float:
        """The mean score that was asked for."""
        return float(self._scores(self.int8.evaluate or self.fidelity, model).mean())

    def _scores(self, evaluate: Any, model: onnx.ModelProto) -> np.ndarray:
        served = Served(Session(model.SerializeToString()), self.eager, self.held_out[0])
        return scores_of(evaluate, self.eager, served)

    def static(self, source: onnx.ModelProto, only: Sequence[str] = (), without: Sequence[str] = ()) -> onnx.ModelProto:
        """Scales from the calibration data; of some nodes alone, or of all but some."""
        import onnx
        from onnxruntime.quantization import QuantType, quantize_static

        digest = hashlib.sha256(source.SerializeToString(deterministic=True)).hexdigest()[:16]
        file = self.folder / f"float-{digest}.onnx"
        onnx.save(source, file)  # the quantiser changes models that it is given
        return self._written(lambda path: quantize_static(
            file, path, _Reader(Session(self.source.read_bytes()), self.fit), per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_quantize=list(only),
            nodes_to_exclude=[*self.unfit, *without], calibration_cache_path=file.with_suffix(".json"),
        ))  # fmt: skip

    def _dynamic(self) -> onnx.ModelProto:
        """Scales found in every run: convolutions are slower so, and stay float."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        return self._written(lambda path: quantize_dynamic(
            self.source, path, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"],
        ))  # fmt: skip

    def _written(self, write: Callable[[Path], object]) -> onnx.ModelProto:
        import onnx

        path = self.folder / "int8.onnx"
        try:
            with _quiet():
                write(path)
            return onnx.load(path)
        except Exception as error:  # the quantiser raises anything
            raise Refused(
                "int8", "", f"onnxruntime cannot quantise the model ({str(error).splitlines()[0]})",
                "leave out int8= to keep float32",
            ) from error  # fmt: skip

    def _over(
        self, model: onnx.ModelProto, names: Sequence[str], reduce: Callable[[np.ndarray], np.ndarray],
        join: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> Mapping[str, np.ndarray]:  # fmt: skip
        """Tensors of a model over the calibration data, reduced to one number a channel."""
        from onnx import ModelProto, TensorProto, helper

        shown = ModelProto()
        shown.CopyFrom(model)
        del shown.graph.output[:]
        shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
        session = Session(shown.SerializeToString())
        found: dict[str, np.ndarray] = {}
        for inputs in self.fit:
            for name, array in zip(names, session.session.run(None, session.feed(inputs)), strict=True):
                some = reduce(array)
                found[name] = join(found[name], some) if name in found else some
        return found


class _Reader:
    """The calibration data as onnxruntime's quantiser reads it."""

    def __init__(self, session: Session, batches: Sequence[Inputs]):
        self.feeds: Iterator[Any] = map(session.feed, batches)

    def get_next(self) -> Any:
        """The next batch; None behind the last."""
        return next(self.feeds, None)


def _itself(batch: Any) -> Any:
    return batch


def _largest(array: np.ndarray) -> np.ndarray:
    return np.abs(array).max((0, *range(2, array.ndim)))


def _sums(array: np.ndarray) -> np.ndarray:
    """Over samples, of the mean over positions."""
    return array.astype(np.float64).mean(tuple(range(2, array.ndim))).sum(0)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser warns through the root logger of what it need not."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
