"""Measurements of jaxgmm, each with where and on what it was taken. See README.md beside this file."""
