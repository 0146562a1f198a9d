"""pyverbs, of whatever rdma-core: the only module that imports it, and only the RDMA process imports this one.

pyverbs comes from the distribution (apt: python3-pyverbs), for it must match the libibverbs of the machine. Importing
this module raises VerbsError with the remedy where that is not so. Names of constants moved in rdma-core 59.
"""

from __future__ import annotations

import sys

from exporter.rdma.ports import VerbsError

INSTALL = "apt-get install python3-pyverbs ibverbs-providers, for the Python that runs the exporter"


try:
    try:
        import pyverbs.enums as constants
    except ModuleNotFoundError as missing:
        if missing.name != "pyverbs.enums":
            raise
        import pyverbs.libibverbs_enums as constants
    from pyverbs.addr import AH, GID, AHAttr, GlobalRoute
    from pyverbs.cq import CQ, CompChannel
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

__all__ = [
    "AH",
    "CQ",
    "GID",
    "MR",
    "PD",
    "QP",
    "SGE",
    "AHAttr",
    "CompChannel",
    "Context",
    "GlobalRoute",
    "PyverbsError",
    "PyverbsRDMAError",
    "QPAttr",
    "QPCap",
    "QPInitAttr",
    "RecvWR",
    "SendWR",
    "constants",
]
