"""RDMA probes: datagrams between queue pairs over RoCEv2, in a process of their own."""
