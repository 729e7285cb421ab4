"""Why there is no TensorRT engine: what can be tried instead depends on it.

Any other EngineError of this folder is of the moment (no memory, a builder that was killed, a full disk): nothing that
was built is given up for it, and the next start tries again.
"""

from __future__ import annotations

from mm_perception.core.errors import EngineError


class PlanError(EngineError):
    """A plan that cannot run here: damaged, of another TensorRT or GPU, or of another network."""


class RefusedError(EngineError):
    """A precision that this network or machine does not get: the graph cannot be converted or built."""


class ToleranceError(EngineError):
    """An engine whose results are not those of float32."""
