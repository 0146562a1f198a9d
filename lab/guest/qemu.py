from pathlib import Path
from lab.errors import LabError
def kernel() -> Path:
    raise LabError("no")
def command(kernel: Path, share: Path, init: Path, memory_mb: int) -> list[str]:
    return []
