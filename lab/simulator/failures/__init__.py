"""Failures of a training fabric, simulated down to the records of those who probe it, with the truth beside them.

``simulate("crc-error", seed=7)``. docs/simulator.md lists the classes and says what is drawn. No network, no root.
The physics knows nothing of the diagnosis that is measured with it: nothing here is chosen after a look at a result.
"""

from lab.simulator.failures import (  # noqa: F401 - classes register themselves
    congestion,
    hosts,
    links,
    overlays,
    parts,
    quiet,
    rnics,
    services,
)
from lab.simulator.failures.case import Case
from lab.simulator.failures.catalogue import CLASSES, FailureClass
from lab.simulator.failures.simulation import simulate

__all__ = ["CLASSES", "Case", "FailureClass", "simulate"]
