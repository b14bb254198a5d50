"""Lists and images → batches of aligned faces."""
