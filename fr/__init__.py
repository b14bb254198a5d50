"""Face recognition training and evaluation."""

from fr.data.nvjpeg import load_dalis

load_dalis()  # before anything imports torchvision
