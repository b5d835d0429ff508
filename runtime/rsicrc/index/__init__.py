"""A searchable index of image pairs: vectors, captions and user columns in a LanceDB table on disk."""

from importlib.util import find_spec

from rsicrc.errors import BackendError

if find_spec("lancedb") is None:
    raise BackendError("LanceDB is not installed: `pip install 'rsicrc[search]'`")
