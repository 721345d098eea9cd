"""A student in other forms: plain transformers, ONNX, a web page, a MONAI bundle."""
