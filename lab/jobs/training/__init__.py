"""A real training job for the lab: a small transformer in PyTorch, tensor, pipeline and data parallel, on the CPU.

Nobody wrote its traffic: what crosses the fabric is what autograd, the pipeline's schedule and gloo send. One
process is one rank, one container and one RNIC; ``shape`` and ``pairs`` need no PyTorch, the rest does.
"""
