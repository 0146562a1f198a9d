"""fabric-exporter: measures a training fabric from its hosts and switches."""

__version__ = "0.1.0"
