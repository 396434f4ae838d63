"""Adapt cell segmentation models to images that nobody has annotated.

The Python API, listed in ``__init__.pyi`` and imported when first used, so that ``import celladapt`` is instant.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
