"""Description and detection of changes between two satellite or aerial images; needs no PyTorch.

    import rsicrc
    engine = rsicrc.load("model")
    print(engine.caption([("before.png", "after.png")])[0].text)

The public names are listed in `__init__.pyi`. Each is imported at its first use, so that `import rsicrc` stays fast.
"""

import logging
import os

import lazy_loader

logging.getLogger(__name__).addHandler(logging.NullHandler())  # the application decides where the log goes

# ONNX Runtime reads the variable when it is imported. Without it, it collects usage reports and writes them into the
# home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0.dev0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
