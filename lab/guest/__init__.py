"""Another kernel, for what this machine's cannot do: RoCEv2 in software, netem, virtual time. No privileges needed.

``kernel`` finds it, ``machine`` boots it and runs one command in it, ``network`` makes RoCEv2 ports and a
fabric in it, ``python -m lab.guest`` does so by hand. How to use it: docs/rdma-lab.md.
"""
