"""What a job's throughput says about who talks to whom. Pure: values in, values out."""

from skeleton_service.inference.series import Source, Throughput
from skeleton_service.inference.skeleton import basic, infer

__all__ = ["Source", "Throughput", "basic", "infer"]
