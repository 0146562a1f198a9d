"""Pushes the store over OTLP, beside /metrics: the same series from the same rows."""
