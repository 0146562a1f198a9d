"""pyverbs of different ages, absent, and broken: packages of that name with no device behind them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.rdma.ports import VerbsError

MODULE = "exporter.rdma.verbs"
NAMES = {
    "addr": "AH GID AHAttr GlobalRoute",
    "base": "PyverbsObject",
    "cq": "CQ CQEX CompChannel CqInitAttrEx PollCqAttr",
    "device": "Context",
    "mr": "MR",
    "pd": "PD",
    "pyverbs_error": "PyverbsError PyverbsRDMAError",
    "qp": "QP QPAttr QPCap QPInitAttr",
    "wr": "SGE RecvWR SendWR",
}
OLD = "from enum import IntEnum\nclass ibv_qp_type(IntEnum):\n    IBV_QPT_UD = 4\nIBV_QPT_UD = ibv_qp_type.IBV_QPT_UD\n"
NEW = "from enum import IntEnum\nclass ibv_qp_type(IntEnum):\n    IBV_QPT_UD = 4\nIBV_WC_STANDARD_FLAGS = 127\n"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where pyverbs is looked for first; what was imported of it is forgotten, and comes back afterwards."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_of_verbs(name)}
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if _is_of_verbs(name)]:
        del sys.modules[name]
    sys.modules.update(before)


def _is_of_verbs(name: str) -> bool:
    return name == MODULE or name.partition(".")[0] == "pyverbs"


def install(packages: Path, **modules: str) -> None:
    """A pyverbs of these modules, and of those that all versions have."""
    package = packages / "pyverbs"
    package.mkdir()
    (package / "__init__.py").touch()
    for module, names in NAMES.items():
        (package / f"{module}.py").write_text("".join(f"class {name}(Exception): ...\n" for name in names.split()))
    for module, text in modules.items():
        (package / f"{module}.py").write_text(text)


@pytest.mark.parametrize("module", ["enums", "libibverbs_enums"])
@pytest.mark.parametrize("text", [OLD, NEW])
def test_constants_are_found_wherever_a_version_has_them(packages: Path, module: str, text: str) -> None:
    install(packages, **{module: text})
    verbs = importlib.import_module(MODULE)
    assert verbs.constants.IBV_QPT_UD == 4
    assert all(hasattr(verbs, name) for name in verbs.__all__)


def test_a_constant_outside_of_the_enumerations_is_found_too(packages: Path) -> None:
    install(packages, libibverbs_enums=NEW)
    assert importlib.import_module(MODULE).constants.IBV_WC_STANDARD_FLAGS == 127


@pytest.mark.usefixtures("packages")
def test_no_pyverbs_at_all_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not Path(entry, "pyverbs").exists()])
    with pytest.raises(
        VerbsError, match="pyverbs is not installed: apt-get install python3-pyverbs ibverbs-providers"
    ) as raised:
        importlib.import_module(MODULE)
    assert "--system-site-packages" in str(raised.value)


def test_one_built_for_another_python_is_told_as_such(packages: Path) -> None:
    install(packages, enums=OLD)
    (packages / "pyverbs" / "device.py").unlink()  # its extension modules have another version's suffix
    with pytest.raises(
        VerbsError, match=r"pyverbs is not built for Python 3\.\d+ \(No module named 'pyverbs\.device'\)"
    ):
        importlib.import_module(MODULE)


@pytest.mark.parametrize(
    "failure",
    [
        "raise ImportError(\"libibverbs.so.1: version 'IBVERBS_PRIVATE_59' not found\")",
        "raise KeyError('__reduce_cython__')",
    ],
)
def test_one_that_does_not_fit_libibverbs_is_told_as_such(packages: Path, failure: str) -> None:
    install(packages, enums=OLD, device=failure)
    with pytest.raises(VerbsError, match=r"does not fit the machine's libibverbs \(.*\): take both from one rdma-core"):
        importlib.import_module(MODULE)
