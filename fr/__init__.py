"""Face recognition training and evaluation."""
