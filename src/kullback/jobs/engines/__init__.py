"""Who runs a plan past one process: workers on this machine, or on a Ray cluster."""
