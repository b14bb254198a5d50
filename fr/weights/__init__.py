"""Weights to start from: other systems' files, their layouts, --init_from and --pretrained."""
