"""Steppers: where a run goes next. `shelf.py` has them all."""
