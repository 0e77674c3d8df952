"""What each process of the section `spread` runs: spread_process.py ROWS DEVICES, by `jaxgmm.launch`."""

import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))  # before anything asks for a device
sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, and not this folder

from benchmarks.spread import one_of_several  # noqa: E402

one_of_several(int(sys.argv[1]))
