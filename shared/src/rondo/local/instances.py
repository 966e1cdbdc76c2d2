"""The workers of a local cluster: a driver of scaling that runs processes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from rondo.local.children import Child

#: What is ended has nothing to do any more; a worker that does not leave within this is killed.
STOP_TIMEOUT_S = 10.0


class LocalInstances:
    """Starts workers as child processes and ends them; see rondo.scaling.driver.Driver.

    Args:
        make: the child that will run an instance, given its number; not started.
        name: the id of an instance, given its number.
    """

    def __init__(self, make: Callable[[int], Child], name: Callable[[int], str]) -> None:
        self._make = make
        self._name = name
        self._numbers = count()
        self._children: dict[str, Child] = {}

    @property
    def instance_ids(self) -> tuple[str, ...]:
        """Those that run, or are being started."""
        return tuple(self._children)

    @property
    def children(self) -> tuple[Child, ...]:
        """Their processes."""
        return tuple(self._children.values())

    def add(self) -> tuple[str, Child]:
        """One more, not started yet."""
        number = next(self._numbers)
        instance_id, child = self._name(number), self._make(number)
        self._children[instance_id] = child
        return instance_id, child

    async def start(self) -> str:
        """Starts one more, and again when it dies."""
        instance_id, child = self.add()
        await child.start()
        child.keep()
        return instance_id

    async def stop(self, instance_id: str) -> None:
        """Ends one for good."""
        await self._children.pop(instance_id).stop(STOP_TIMEOUT_S)
