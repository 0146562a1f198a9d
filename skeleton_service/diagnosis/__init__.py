"""From probe records to a named component: pure functions, values in, values out."""

from skeleton_service.diagnosis.verdict import diagnose

__all__ = ["diagnose"]
