"""Inference engines behind one protocol. Importing this package needs no torch, onnxruntime or openvino."""

from mm_perception.engines.card import ModelCard, find_card, load_card, save_card
from mm_perception.engines.engine import Engine, TensorSpec
from mm_perception.engines.load import load_engine

__all__ = ["Engine", "ModelCard", "TensorSpec", "find_card", "load_card", "load_engine", "save_card"]
