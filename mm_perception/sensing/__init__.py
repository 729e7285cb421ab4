"""Measurements to model-ready arrays: one file per kind of sensor, vectorised numpy and OpenCV.

An X image is (H, W, 3) float32 on the pixel grid of the RGB camera's model input, in about 0..1, and 0 where
nothing was measured; the model card's mean and standard deviation are applied last, by `image.to_tensor`.
"""
