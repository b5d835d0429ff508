"""TensorRT: the same modules for `tensorrt` 10 and 11 and for `tensorrt_rtx`, whose interfaces hardly differ."""
