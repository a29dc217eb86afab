"""Deep generative models as pure JAX functions, trained by one loop and judged by one protocol."""

__version__ = "0.1.0"
