"""A device's hard day with a full queue, inside MicroPython, to see what heap it needs:

    micropython -X heapsize=64wk tests/heap.py [FOLDER]

FOLDER holds telehub.py or telehub.mpy; without it, the one beside is taken. `64wk` is 64 KiB for
pointers of 4 bytes, which boards have, and as many more as pointers are larger here. It passes, or ends
with a MemoryError.
"""

import gc
import sys

sys.path.insert(0, sys.argv[1] if len(sys.argv) > 1 else __file__.rsplit("/", 1)[0] + "/..")

# The kit first: while it is compiled it needs the most.
import telehub  # noqa: E402, F401
from heap_day import day  # noqa: E402

gc.collect()
kit = gc.mem_alloc()
day()
gc.collect()
print("passed in", gc.mem_alloc() + gc.mem_free(), "bytes; without a queue", kit, "are in use")
