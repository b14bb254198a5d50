"""Python imports this at start, where PYTHONPATH names this folder: see tests/fault_points.py."""

from tests.fault_points import install_from_environment

install_from_environment()
