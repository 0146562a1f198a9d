"""skeleton-service: learns the paths a training job uses, makes probe plans and rules, names what is broken."""

from importlib.metadata import version

__version__ = version("fabric-skeleton")
