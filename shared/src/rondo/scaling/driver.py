"""What can start and stop instances: processes here, containers there."""

from __future__ import annotations

from typing import Protocol


class Driver(Protocol):
    """Runs the instances of one model.

    An instance that dies unasked is the driver's to start again; it counts meanwhile.
    """

    @property
    def instance_ids(self) -> tuple[str, ...]:
        """Instances that it runs, those on their way included."""
        ...

    async def start(self) -> str:
        """Starts one more and returns its id; does not wait until it serves.

        Raises:
            RondoError: it cannot be started.
        """
        ...

    async def stop(self, instance_id: str) -> None:
        """Ends one for good: SIGTERM first, so that it leaves in order."""
        ...
