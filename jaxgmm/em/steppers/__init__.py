"""Steppers, which propose the next mixture of a run. `shelf.py` lists them all."""
