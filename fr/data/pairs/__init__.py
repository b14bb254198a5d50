"""Verification sets, one file for each form; `fr/data/verification_set.py` chooses."""
