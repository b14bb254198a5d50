"""Verification sets, one file each; `fr/data/verification_set.py` chooses."""
