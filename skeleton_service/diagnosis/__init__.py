"""From probe records to a named component: pure functions, values in, values out."""

from skeleton_service.diagnosis.diagnose import Diagnoser, diagnose

__all__ = ["Diagnoser", "diagnose"]
