"""A Ray cluster of this machine, whose nodes can be killed."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import Any


class TwoNodes:
    """A head that does no work, and two nodes of one worker each.

    Args:
        environment: of all; ``of_the_second`` is that node's alone.
    """

    def __init__(self, environment: Mapping[str, str], of_the_second: Mapping[str, str] | None = None) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(environment)
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address = self._cluster.address
        each = (None, of_the_second)
        self._nodes: list[Any] = [self._cluster.add_node(num_cpus=1, env_vars=dict(own or {})) for own in each]

    def kill_one(self, rng: random.Random) -> None:
        """A node dies, and another takes its place."""
        node = self._nodes.pop(rng.randrange(len(self._nodes)))
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._cluster.add_node(num_cpus=1))

    def stop(self) -> None:
        self._cluster.shutdown()
