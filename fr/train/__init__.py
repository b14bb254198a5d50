"""Training: learner (step and state), loop, validation, meters, monitor, optimizer, EMA, replicas, watchdog."""
