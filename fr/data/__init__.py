"""From lists and photographs to batches of aligned faces."""
