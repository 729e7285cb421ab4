"""TensorRT: engines built from ONNX files, kept, checked before use, and run on an NVIDIA GPU.

Written to what TensorRT 10.16, 11 and TensorRT-RTX have in common: strongly typed networks, whose precision stands
in the ONNX graph. Nothing here is imported before TensorRT is asked for.
"""
