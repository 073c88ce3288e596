"""What exceeds the memory waits on disk and comes back the same; results do not depend on how much there is."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from workbench import Budget, Plan, trace
from workbench.apply import apply
from workbench.calibrate import calibrate
from workbench.spill import Memory, Spill


def files(memory: Memory) -> list[Path]:
    return list(memory.folder.iterdir()) if memory.folder else []


def test_values_come_back_and_memory_is_kept_to() -> None:
    memory = Memory(100)
    spill = Spill(memory, {"given": torch.zeros(1000)})
    small, large = torch.arange(10.0), torch.randn(4, 30).bfloat16()
    spill["small"], spill["large"], spill["number"] = small, [large, large.T, 7], 3
    assert memory.used == small.nbytes
    assert torch.equal(spill["small"], small)
    back = spill["large"]
    assert torch.equal(back[0], large)
    assert torch.equal(back[1], large.T)
    assert back[2] == 7
    assert spill["number"] == 3
    assert len(files(memory)) == 1
    assert sorted(spill) == ["given", "large", "number", "small"]
    del spill["large"], spill["small"]
    assert files(memory) == []
    assert memory.used == 0
    assert "large" not in spill
    spill["again"] = small
    spill["again"] = small + 1
    assert memory.used == small.nbytes
    assert torch.equal(spill["again"], small + 1)


def test_the_files_go_with_the_memory() -> None:
    memory = Memory(0)
    spill = Spill(memory)
    spill["a"] = torch.ones(3)
    (path,) = files(memory)
    del spill, memory
    assert not path.exists()


def test_statistics_and_weights_are_those_of_a_run_in_memory() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )
    graph, data = trace(model, torch.randn(2, 3, 8, 8)), [torch.randn(16, 3, 8, 8) for _ in range(3)]
    roomy, tight = (calibrate(graph, data, memory=memory) for memory in (1 << 30, 1))
    assert roomy.layers.keys() == tight.layers.keys()
    for name, evidence in roomy.layers.items():
        found = tight.layers[name]
        for one, other in ((evidence.fit, found.fit), (evidence.held_out, found.held_out)):
            assert torch.equal(one.xx, other.xx)
            assert torch.equal(one.xy, other.xy)
            assert one.count == other.count
    units = {group.name: group.units for group in graph.groups}
    plan = Plan({name: tuple(range(n // 2)) for name, n in units.items()}, units, Budget(macs=0.5), 0.0, 0.0,
                graph.fingerprint)  # fmt: skip
    models = [apply(graph, plan, data, memory=memory).model for memory in (1 << 30, 1)]
    assert all(map(torch.equal, models[0].state_dict().values(), models[1].state_dict().values()))
