"""Reading what is diagnosed and inferred from: files of the contracts, exporters, and Prometheus."""
