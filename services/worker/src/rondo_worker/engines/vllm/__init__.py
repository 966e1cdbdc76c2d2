"""The vLLM engine. Only this package uses vllm, and imports it when an engine is loaded."""

from rondo_worker.engines.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]
