"""Export of RSICRC checkpoints to model folders of ONNX graphs and TensorRT plans."""
