"""Training: step, loop, validation, meters, monitor, optimizer, EMA, replicas, watchdog."""
