"""Reports: the verification page, plots, failed pairs, TensorBoard's projector."""
