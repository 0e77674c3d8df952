"""What test_benchmarks.py asks child processes to do; in a file that imports nothing slow."""

from __future__ import annotations

import os
import time

from benchmarks import isolate


def double(number):
    return {"doubled": 2 * number, "pid": os.getpid()}


def refuse():
    raise isolate.Unsupported("it is not for me")


def die():
    os.abort()


def raise_with_a_folder():
    raise ValueError(f"nothing in {isolate.ROOT}/benchmarks\nat all")


def chatter():
    os.system("echo from a child's child")
    print("from a library")
    return {"variable": os.environ.get("OPENBLAS_CORETYPE"), "limit": os.environ.get("OMP_NUM_THREADS")}


def sleep():
    time.sleep(60)
