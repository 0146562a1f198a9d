"""pyverbs, of whatever rdma-core: the only module that imports it, and only the RDMA process imports this one.

pyverbs comes from the distribution (apt: python3-pyverbs), for it must match the libibverbs of the machine. Importing
this module raises VerbsError with the remedy where that is not so. The versions tried are in docs/deployment.md.
"""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace

from exporter.rdma.ports import VerbsError

INSTALL = (
    "apt-get install python3-pyverbs ibverbs-providers, for the Python that runs the exporter; "
    "in a virtual environment: one made with --system-site-packages"
)


def _constants(module: ModuleType) -> SimpleNamespace:
    """All constants by their names: built with Cython 3.1 or newer, a module has them in its enumerations alone."""
    names: dict[str, object] = {}
    for kind in vars(module).values():
        names.update(getattr(kind, "__members__", {}))
    return SimpleNamespace(**names | vars(module))


try:
    try:
        import pyverbs.enums as enumerations
    except ModuleNotFoundError as missing:
        if missing.name != "pyverbs.enums":
            raise
        import pyverbs.libibverbs_enums as enumerations  # all that rdma-core 59 and later have
    import pyverbs.base
    from pyverbs.addr import AH, GID, AHAttr, GlobalRoute
    from pyverbs.cq import CQ, CQEX, CompChannel, CqInitAttrEx, PollCqAttr
    from pyverbs.device import Context
    from pyverbs.mr import MR
    from pyverbs.pd import PD
    from pyverbs.pyverbs_error import PyverbsError, PyverbsRDMAError
    from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
    from pyverbs.wr import SGE, RecvWR, SendWR
except ModuleNotFoundError as error:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if error.name == "pyverbs":
        raise VerbsError(f"pyverbs is not installed: {INSTALL}") from error
    raise VerbsError(f"pyverbs is not built for Python {version} ({error}): {INSTALL}") from error
except Exception as error:
    # Among others KeyError('__reduce_cython__'): what follows a failed import of an extension module.
    raise VerbsError(
        f"pyverbs does not fit the machine's libibverbs ({error}): take both from one rdma-core; {INSTALL}"
    ) from error

constants = _constants(enumerations)

# Each object of pyverbs, so each completion, has logging find the logger of its class: a lock, and a look at a clock,
# which is slow where the kernel has no vDSO. One logger does for all.
_LOGGER = logging.getLogger("pyverbs")
pyverbs.base.logging = SimpleNamespace(getLogger=lambda _: _LOGGER)

__all__ = [
    "AH",
    "CQ",
    "CQEX",
    "GID",
    "MR",
    "PD",
    "QP",
    "SGE",
    "AHAttr",
    "CompChannel",
    "Context",
    "CqInitAttrEx",
    "GlobalRoute",
    "PollCqAttr",
    "PyverbsError",
    "PyverbsRDMAError",
    "QPAttr",
    "QPCap",
    "QPInitAttr",
    "RecvWR",
    "SendWR",
    "constants",
]
