"""Tuning constants that the Python and the C++ runtime share.

`runtime/cpp/src/tuning.h` is generated from this module: after a change here, run `runtime/cpp/generate_tuning.py`.
"""

from __future__ import annotations

# Texts in one run of the text encoder or the scorer: enough to fill the CPU cores, few enough to bound the memory.
TEXTS_PER_RUN = 256
# Pairs in one run of the image encoder on a CPU. The intermediate results of more pairs do not fit the CPU's caches.
PAIRS_PER_RUN = 8
# Decoding steps that the key/value caches hold at first, and by which they grow. Every step reads the whole cache, and
# most captions have 8 to 12 tokens.
CACHE_STEPS = 16
# Finished pairs leave the batch when at most this share of its pairs is unfinished.
SHRINK_SHARE = 0.75
