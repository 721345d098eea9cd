"""A student in other forms: plain transformers, ONNX."""
