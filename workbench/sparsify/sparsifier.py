"""``Sparsifier``: follows a recipe in any training loop. One call a step, after the optimiser's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workbench.graph.trace import ChannelGraph
from workbench.sparsify.evidence import ACTIVATIONS, activations
from workbench.sparsify.masks import check, mask_, sparsity_of, zeros_of
from workbench.sparsify.momentum import forget_
from workbench.sparsify.rule import merged
from workbench.sparsify.running import Running
from workbench.sparsify.sites import sites_of
from workbench.sparsify.stages import Hold, Prune, Recipe, described
from workbench.sparsify.units import Masks
from workbench.sparsify.view import WeightView, views_of

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "workbench sparsifier 1"


class Sparsifier:
    """Masks the weights of a model in place while it is trained.

    Call ``step()`` once after every step of the optimiser and before the gradients are set to zero; or ``attach`` it to
    the optimiser once. With gradients that accumulate that is once for all their batches; steps that a gradient scaler
    skips count where ``step()`` is called, and infinite gradients are never looked at. To resume, make both anew and
    load both states.

    Parameters
    ----------
    model : trained by the caller; without its DDP or compiled wrapper
    recipe : a ``Recipe``, or one stage
    steps_per_epoch : how many steps of the optimiser an epoch has, for recipes in epochs
    optimizer : whose momentum is set to zero where weights come back; ``attach`` sets it, too
    calibration : model inputs, for criteria on activations; the same in all processes of DDP
    graph : the traced model, for ``Channels``
    seed : of draws

    Raises
    ------
    ValueError
        The recipe does not fit the model.

    Examples
    --------
    >>> from workbench.sparsify import Cubic, Prune
    >>> model = nn.Linear(8, 4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> sparsifier = Sparsifier(model, Prune(Cubic(0.75, end=10)))
    >>> for _ in range(12):
    ...     optimizer.zero_grad()
    ...     model(torch.randn(16, 8)).square().mean().backward()
    ...     optimizer.step()
    ...     sparsifier.step()
    >>> sparsifier.sparsity
    0.75
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe | Prune | Hold, *, steps_per_epoch: int | None = None,
        optimizer: torch.optim.Optimizer | None = None, calibration: Any = None, graph: ChannelGraph | None = None,
        seed: int = 0,
    ):  # fmt: skip
        self.model, self.optimizer, self.graph, self.seed = model, optimizer, graph, seed
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe((recipe,))
        self.steps_per_epoch, self.calibration = steps_per_epoch, calibration
        if self.recipe.unit == "epochs" and not steps_per_epoch:
            raise ValueError("the recipe counts epochs; give steps_per_epoch=, the optimiser's steps in one")
        self.runs = [
            Running(stage, stage.rule.units(model, graph)) for stage in self.recipe.stages if isinstance(stage, Prune)
        ]
        if any(run.needs & ACTIVATIONS for run in self.runs) and calibration is None:
            raise ValueError("the recipe has a criterion on activations; give calibration=, batches of model inputs")
        self.holds = {number: stage for number, stage in enumerate(self.recipe.stages) if isinstance(stage, Hold)}
        for hold in self.holds.values():
            sites_of(model, hold.layers, hold.ignore)  # a name that means nothing is refused now
        self.steps = 0
        self.held: dict[int, Masks] = {}
        self._hold()  # before the optimiser moves what is zero
        self.masks = self._merged()  # what all stages leave: True stays
        for run in self.runs:
            run.rehearse(self._whole(run))
        self.snapshots: dict[float, dict[str, Tensor]] = {}
        self._before = self._weights()
        self._snap()

    def __repr__(self) -> str:
        return f"Sparsifier({type(self.model).__name__}: step {self.steps}, sparsity {self.sparsity:.4f})"

    @property
    def time(self) -> float:
        """The steps done, in the recipe's unit."""
        return self._time(self.steps)

    @property
    def sparsity(self) -> float:
        """The share of the elements of all masked tensors that is masked; 0 before the first."""
        return sparsity_of(self.masks)

    def prepare(self) -> Sparsifier:
        """Do what the recipe asks for at time 0 before the first step, where that needs no gradient."""
        self._update(-1.0)
        return self

    def step(self) -> None:
        """One step of the optimiser is done: gather, choose masks where they are due, set what is masked to zero.

        Raises
        ------
        RuntimeError
            A masked weight is not zero afterwards.
        ValueError
            A parameter is gone, a criterion lacks its gradient, or an amount cannot be had.
        """
        before = self.time
        self.steps += 1
        mask_(self.model, self.masks)
        for run in self.runs:
            if run.gathers and not run.over(self.time):
                views = self._views(run, self._before)
                if _have_gradients(views):
                    run.look(views)
        self._update(before)

    def attach(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Call ``step()`` after each of the optimiser's own, whoever makes it; returns the optimiser.

        Steps that a gradient scaler skips are none, so that they do not count. A copy of the optimiser is not attached.
        """
        self.optimizer = optimizer
        optimizer.register_step_post_hook(self._after)
        return optimizer

    def penalty(self) -> Tensor:
        """What the recipe's penalties add to the loss now."""
        found = [penalty(self.model, self.time, self.graph) for penalty in self.recipe.penalties]
        return torch.stack(found).sum() if found else torch.zeros(())

    def to_frame(self) -> pd.DataFrame:
        """One row a tensor: elements, how many are masked, their share."""
        import pandas as pd

        rows = [
            {"tensor": name, "elements": mask.numel(), "masked": int((~mask).sum()),
             "sparsity": sparsity_of({name: mask})}
            for name, mask in self.masks.items()
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=["tensor", "elements", "masked", "sparsity"])

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on in a later process: tensors, numbers and text, so ``weights_only`` loads it."""
        return {
            "format": FORMAT, "recipe": described(self.recipe), "steps": self.steps,
            "runs": [run.state() for run in self.runs], "held": {number: dict(m) for number, m in self.held.items()},
            "snapshots": {time: dict(state) for time, state in self.snapshots.items()},
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the model must have its own loaded already. What is masked is set to zero.

        Raises
        ------
        ValueError
            It is that of another recipe.
        """
        if state.get("format") != FORMAT:
            raise ValueError(f"this is no state of a sparsifier ({state.get('format')!r}); give what state_dict() gave")
        if state["recipe"] != described(self.recipe):
            raise ValueError(
                f"the state belongs to another recipe: {state['recipe']}; make the sparsifier with that one"
            )
        devices = {name: parameter.device for name, parameter in self.model.named_parameters()}
        for run, saved in zip(self.runs, state["runs"], strict=True):
            run.load(saved, devices)
        self.steps = state["steps"]
        self.held = {number: dict(masks) for number, masks in state["held"].items()}
        self.snapshots = {time: dict(values) for time, values in state["snapshots"].items()}
        self.masks = self._merged()
        mask_(self.model, self.masks)
        self._before = self._weights()

    def _after(self, *_: Any) -> None:
        self.step()

    def _time(self, steps: int) -> float:
        return steps / self.steps_per_epoch if self.recipe.unit == "epochs" and self.steps_per_epoch else float(steps)

    def _update(self, before: float) -> None:
        now = self.time
        self._snap()
        changed = self._hold()
        rewind = [self._advance(run, before, now) for run in self.runs]
        if changed or any(moved is not None for moved in rewind):
            self._replace([run for run, moved in zip(self.runs, rewind, strict=True) if moved])
        mask_(self.model, self.masks)
        check(self.model, self.masks)
        self._before = self._weights()

    def _hold(self) -> bool:
        """Take what is zero where a stage that holds begins; whether one does."""
        begun = [number for number, hold in self.holds.items() if number not in self.held and self.time >= hold.begin]
        for number in begun:
            hold = self.holds[number]
            self.held[number] = zeros_of(self.model, sites_of(self.model, hold.layers, hold.ignore))
        return bool(begun)

    def _advance(self, run: Running, before: float, now: float) -> bool | None:
        """Choose a stage's masks where they are due: None where they are not, else whether it rewinds."""
        if run.due(before, now):
            if not run.gathers:
                run.look(self._views(run, None))
            if run.known:  # else the gradient is yet to come
                run.choose(run.stage.schedule(now), self._whole(run))
                return run.stage.rewind is not None
        elif run.due_to_grow(now):
            views = self._views(run, None)
            if _have_gradients(views):
                run.grow(now, views)
                return False
        return None

    def _replace(self, rewinding: list[Running]) -> None:
        """Take new masks: what leaves is set aside where it may come back, what comes back has no momentum."""
        old, self.masks = self.masks, self._merged()
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for run in self.runs:
                back = [self._swap(run, name, parameters[name], old.get(name)) for name in run.masks]
                if self.optimizer is not None and run.stage.reset_momentum and any(back):
                    for name in run.masks:
                        forget_(self.optimizer, parameters[name])
        for run in rewinding:
            assert run.stage.rewind is not None
            self.model.load_state_dict(self.snapshots[run.stage.rewind])
            for parameter in self.model.parameters() if self.optimizer is not None else ():
                forget_(self.optimizer, parameter)  # type: ignore[arg-type]  # it is there

    def _swap(self, run: Running, name: str, parameter: nn.Parameter, old: Tensor | None) -> bool:
        """One tensor under its new mask; whether any of it comes back."""
        new = self.masks[name].to(parameter.device)
        old = torch.ones_like(new) if old is None else old.to(parameter.device)
        back = new & ~old
        if run.stage.returning:
            aside = run.aside.get(name, torch.zeros_like(parameter)).to(parameter.device)
            parameter.copy_(torch.where(back, aside, parameter))
            run.aside[name] = torch.where(old & ~new, parameter.detach(), aside).masked_fill(new, 0)
        if self.optimizer is not None and back.any():
            forget_(self.optimizer, parameter, back)
        return bool(back.any())

    def _views(self, run: Running, weights: Mapping[str, Tensor] | None) -> dict[str, WeightView]:
        """What a stage's criteria see: the weights now, or those that made the gradients."""
        parameters = dict(self.model.named_parameters())
        found = {site.name: parameters[site.name].grad for site in run.sites} if "gradient" in run.needs else {}
        missing = [name for name, gradient in found.items() if gradient is None]
        if missing and self.steps:
            raise ValueError(
                f"{missing[0]} has no gradient, and a criterion needs it; call step() before zero_grad(), or ignore "
                "the layer"
            )
        grads = {name: gradient for name, gradient in found.items() if gradient is not None}
        seen = {}
        if run.needs & ACTIVATIONS:
            seen = activations(self.model, run.sites, run.needs & ACTIVATIONS, self.calibration)
        values = {site.name: (weights or {}).get(site.name, parameters[site.name]) for site in run.sites}
        for name, aside in run.aside.items():
            if name in values:
                values[name] = torch.where(self.masks[name].to(aside.device), values[name].detach(), aside)
        return views_of(values, run.sites, seen, grads, self.seed)

    def _whole(self, run: Running) -> Masks:
        """What is masked now, of all tensors that a stage masks."""
        parameters = dict(self.model.named_parameters())
        names = {name for one in run.units for name in one.masked}
        return {n: self.masks.get(n, torch.ones_like(parameters[n], dtype=torch.bool)) for n in names}

    def _merged(self) -> Masks:
        return merged([*(run.masks for run in self.runs), *self.held.values()])

    def _weights(self) -> dict[str, Tensor]:
        """Copies of the weights whose next gradient a criterion wants to multiply with them."""
        names = {site.name for run in self.runs if run.gathers for site in run.sites}
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if name in names}

    def _snap(self) -> None:
        """Keep the weights of the times to which a stage rewinds."""
        for run in self.runs:
            time = run.stage.rewind
            if time is not None and time not in self.snapshots and self.time >= time:
                self.snapshots[time] = {name: t.detach().clone() for name, t in self.model.state_dict().items()}


def _have_gradients(views: Mapping[str, WeightView]) -> bool:
    """Whether all are there and finite: before the first step they are not, and a scaler skips infinite ones."""
    return all(view.gradient is not None and view.gradient.isfinite().all() for view in views.values())
