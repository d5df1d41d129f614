"""Histories and kills by the thousand: `make torture`, `python -m tests.torture`."""
