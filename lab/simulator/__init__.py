"""Training jobs simulated down to what their RNICs' counters show, with the truth about who talked to whom.

``simulate(CASES["1f1b"], seed=7)``. docs/simulator.md describes the physics and the cases. No network, no root.
"""

from lab.simulator.case import QUIET, Background, Case
from lab.simulator.catalogue import CASES
from lab.simulator.simulation import Simulation, simulate

__all__ = ["CASES", "QUIET", "Background", "Case", "Simulation", "simulate"]
