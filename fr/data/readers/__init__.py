"""Training formats, one file each; `fr/data/formats.py` chooses by --train_dataset."""
