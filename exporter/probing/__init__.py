"""The prober process: it sends, answers and traces probes, and does nothing else."""
