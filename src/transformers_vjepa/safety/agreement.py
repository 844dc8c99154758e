"""A decision that is made once and holds in all processes of a launch."""

import os
from collections.abc import Callable
from typing import TypeVar

from torch import distributed

Decision = TypeVar("Decision")


def agreed(decide: Callable[[], Decision], *, on_each_machine: bool = False) -> Decision:
    """
    Calls `decide` in one process, and returns its result in all processes. All processes must call this function.

    Args:
        decide: reads or locks files, for example. Its result must be picklable.
        on_each_machine: call `decide` in the first process of each machine, whose files may differ; all results must
            be equal. Otherwise only the first process of all calls `decide`.

    Raises:
        Exception: the error of `decide`, in all processes.
        ValueError: two machines have decided differently.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return decide()
    rank = distributed.get_rank()
    is_first = rank == 0 or (on_each_machine and int(os.environ.get("LOCAL_RANK", rank)) == 0)
    outcome: tuple | None = None
    if is_first:
        try:
            outcome = (decide(), None)
        except Exception as error:  # raised below, here and in all other processes
            outcome = (None, error)
    outcomes: list[tuple | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(outcomes, outcome)
    made = [each for each in outcomes if each is not None]
    for _, error in made:
        if error is not None:
            raise error
    results = [result for result, _ in made]
    if others := [result for result in results if result != results[0]]:
        raise ValueError(f"one machine has {results[0]}, and another one {others[0]}: give all the same folder")
    return results[0]
