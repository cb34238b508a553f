"""A module that interrupts its own training."""

from __future__ import annotations

import os
import signal

from torch import Tensor, nn


class InterruptingModule(nn.Module):
    """Sends Ctrl-C to its own process in training pass number ``at``."""

    calls = at = 0

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Only training passes have many rows.
        if self.training and x.shape[0] > 10:
            type(self).calls += 1
            if type(self).calls == self.at:
                os.kill(os.getpid(), signal.SIGINT)
        output: Tensor = self.linear(x)
        return output

    @classmethod
    def set_alarm(cls, at: int) -> None:
        """Interrupt in pass number ``at`` from now on; 0 never interrupts."""
        cls.calls, cls.at = 0, at
