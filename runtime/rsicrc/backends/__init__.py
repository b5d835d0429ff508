"""Backends, which run the graphs of a model folder.

`protocol` defines the interface, `table` lists the implementations, and `selection` chooses and opens one of them.
"""

from rsicrc.backends.protocol import Array, Backend, Loop, Value

__all__ = ["Array", "Backend", "Loop", "Value"]
