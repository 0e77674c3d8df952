"""Rows of any source, where they lie, and sums over them. The way in is `door.py`."""
