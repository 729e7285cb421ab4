"""Multi-modal perception for ROS 2: RGB-X segmentation with CMX, 3D detection with DeepInteraction++."""

__version__ = "0.1.0"
