"""The torch engine: dense Llama-like models on CPU or CUDA."""

from rondo_worker.engines.torch.engine import TorchEngine

__all__ = ["TorchEngine"]
