"""What the epochs of a training saw, noted for all networks at once."""

from __future__ import annotations

from collections.abc import Sequence

from torchreg.engine.train.run_state import RunState


class Curves:
    """Losses and learning rates, epoch by epoch, of the networks of a stack.

    To write each number down where it belongs takes a stack of hundreds of networks as long as a
    fifth of its steps. Where nobody asks before a network has ended, an epoch is noted as it
    comes, a row for all networks, and a network's own numbers are picked out in the end.

    Parameters
    ----------
    members : sequence of RunState
        Those with a place in the stack.
    asked : bool
        Whether somebody asks in each epoch: numbers are then written down at once.
    """

    def __init__(self, members: Sequence[RunState], *, asked: bool) -> None:
        self.asked = asked
        self._begin = len(members[0].losses) if members else 0
        self._losses: list[list[float]] = []
        self._validation: list[list[float]] = []
        self._rates: list[list[float]] = []

    def note(
        self,
        active: Sequence[RunState],
        losses: list[float],
        validation: list[float] | None,
        rates: list[float] | None,
    ) -> None:
        """Note what an epoch saw.

        Parameters
        ----------
        active : sequence of RunState
            Those that still train.
        losses : list of float
            One for each place, as are the others.
        validation : list of float or None
        rates : list of float or None
        """
        if self.asked:
            for member in active:
                place = member.place
                member.losses.append(losses[place])
                if validation is not None:
                    member.validation_losses.append(validation[place])
                if rates is not None:
                    member.rates.append(rates[place])
            return
        self._losses.append(losses)
        if validation is not None:
            self._validation.append(validation)
        if rates is not None:
            self._rates.append([*rates])

    def write(self, member: RunState) -> None:
        """Write down what was noted of a network; done twice, it is as if done once."""
        if self.asked:
            return
        place, begin = member.place, self._begin
        member.losses[begin:] = [row[place] for row in self._losses]
        member.validation_losses[begin:] = [row[place] for row in self._validation]
        member.rates[begin:] = [row[place] for row in self._rates]

    def forget_after(self, n_epochs: int) -> None:
        """Drop what was noted of an epoch that was interrupted."""
        n = max(n_epochs - self._begin, 0)
        del self._losses[n:], self._validation[n:], self._rates[n:]
