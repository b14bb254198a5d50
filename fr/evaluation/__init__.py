"""Evaluation: embeddings, pair verification, protocols, ROC, bootstrap, statistics, score check."""
