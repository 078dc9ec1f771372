"""TorchScript inside a model becomes torch's own graphs.

No annotations from __future__: TorchScript reads them as they are.
"""

import pytest
import torch
from torch import nn

from edgekit.pipeline.normal_form.unwrap import plain

X = torch.linspace(-1, 1, 8).reshape(1, 8)


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.scale = nn.Linear(8, 8), 3

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return torch.relu(self.fc(x)), None


class Flagged(Cell):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int, torch.Tensor]:
        return torch.relu(self.fc(x)), 8, x > 0


class Net(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = torch.jit.script(cell)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x)[0]


class Reading(Net):
    """Reads the scripted module's weights and numbers beside calling it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x)[0] * self.cell.fc.weight.shape[0] * self.cell.scale


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "cell"), [(Net, Cell), (Net, Flagged), (Reading, Cell)])
def test_a_scripted_part_is_converted(kind, cell) -> None:
    net, notes = kind(cell()).eval(), []
    with torch.no_grad():
        wanted = net(X)
        found = plain(net, (X,), {}, notes)(X)
    assert torch.equal(found, wanted)
    assert len(notes) == 1
    assert not any(isinstance(part, torch.jit.ScriptModule) for part in net.modules())
