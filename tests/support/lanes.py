"""Which tests may run side by side under `pytest -n`: whole clusters keep to one process."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

#: A cluster is a dozen processes, and its tests ask whether it is in time: one is enough at once.
CLUSTERS = (
    "tests/e2e/",
    "tests/integration/test_journal.py",
    "tests/integration/test_parity.py",
    "tests/integration/test_real_goodput.py",
    "tests/monitoring/test_prometheus.py",
    "tests/monitoring/test_traces.py",
)


class Lanes(LoadFileScheduling):
    """Files go to whoever is free, and stay whole, because their tests share fixtures.

    Those of clusters go to one process only, which does them first; the others do the rest
    meanwhile.
    """

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        # By name, and not by the number of tests: unit tests, the quickest, come last and level
        # the lanes' ends.
        config.option.loadscopereorder = False
        self._clusters: WorkerController | None = None

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Hands a process its next file, or ends it when what is left is for another."""
        if self._clusters not in self.assigned_work:  # it is the first, or that one has crashed
            self._clusters = node
        files = [f for f in self.workqueue if node is self._clusters or not _of_cluster(f)]
        if not files:
            node.shutdown()
            return
        chosen = next(filter(_of_cluster, files), files[0])
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)


def _of_cluster(file: str) -> bool:
    return file.startswith(CLUSTERS)
