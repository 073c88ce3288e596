"""Trackers: adapters from events to what others log with. They import nothing: hand them the module or the writer.

    wb.batch.run("jobs.toml", out="runs", on_event=[MLflow(mlflow), TensorBoard(SummaryWriter("logs")), WandB(wandb)])

Each makes a run of its tracker for every run that is finished, with the numbers of its ``summary``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from workbench.batch.events import Event


class _MLflow(Protocol):
    def start_run(self, *, run_name: str) -> Any: ...
    def log_params(self, params: dict[str, Any]) -> Any: ...
    def log_metrics(self, metrics: dict[str, float]) -> Any: ...
    def end_run(self, status: str) -> Any: ...


class _Writer(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...
    def add_text(self, tag: str, text_string: str, global_step: int) -> Any: ...
    def flush(self) -> Any: ...


class _WandB(Protocol):
    def init(self, *, project: str, name: str, config: dict[str, Any], reinit: bool) -> Any: ...


@dataclass
class _Tracker:
    """Knows what each run was, and hands over those that end."""

    jobs: dict[str, Mapping[str, Any]] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, event: Event) -> None:
        if event["event"] == "batch_started":
            self.jobs = {run["name"]: run for run in event["runs"]}
        elif event["event"] == "run_finished":
            self.finished(event["run"], dict(self.jobs.get(event["run"], {})), numbers(event["summary"]))
        elif event["event"] == "run_failed":
            self.failed(event["run"], dict(self.jobs.get(event["run"], {})), event["reason"])

    def finished(self, run: str, job: dict[str, Any], found: dict[str, float]) -> None:
        raise NotImplementedError

    def failed(self, run: str, job: dict[str, Any], reason: str) -> None:
        raise NotImplementedError


@dataclass
class MLflow(_Tracker):
    """To MLflow: the module ``mlflow``, or what has its ``start_run``, ``log_params``, ``log_metrics``, ``end_run``."""

    mlflow: _MLflow

    def finished(self, run: str, job: dict[str, Any], found: dict[str, float]) -> None:
        self.mlflow.start_run(run_name=run)
        self.mlflow.log_params(job)
        self.mlflow.log_metrics(found)
        self.mlflow.end_run("FINISHED")

    def failed(self, run: str, job: dict[str, Any], reason: str) -> None:
        self.mlflow.start_run(run_name=run)
        self.mlflow.log_params({**job, "failed": reason[:500]})
        self.mlflow.end_run("FAILED")


@dataclass
class TensorBoard(_Tracker):
    """To TensorBoard: a ``torch.utils.tensorboard.SummaryWriter``. The step is the number of runs that have ended."""

    writer: _Writer
    step: int = field(default=0, init=False)

    def finished(self, run: str, job: dict[str, Any], found: dict[str, float]) -> None:
        for name, value in found.items():
            self.writer.add_scalar(f"{run}/{name}", value, self.step)
        self._end()

    def failed(self, run: str, job: dict[str, Any], reason: str) -> None:
        self.writer.add_text(f"{run}/failed", reason, self.step)
        self._end()

    def _end(self) -> None:
        self.writer.flush()
        self.step += 1


@dataclass
class WandB(_Tracker):
    """To Weights & Biases: the module ``wandb``, or anything with its ``init``."""

    wandb: _WandB
    project: str = "workbench"

    def finished(self, run: str, job: dict[str, Any], found: dict[str, float]) -> None:
        begun = self.wandb.init(project=self.project, name=run, config=job, reinit=True)
        begun.log(found)
        begun.finish(exit_code=0)

    def failed(self, run: str, job: dict[str, Any], reason: str) -> None:
        begun = self.wandb.init(project=self.project, name=run, config={**job, "failed": reason}, reinit=True)
        begun.finish(exit_code=1)


def numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the figures of a run; yes is 1, no is 0."""
    return {key: float(value) for key, value in summary.items() if isinstance(value, int | float)}
