"""What SAE features do on real text, what they could do, and how the two compare.

All that is meant for use from Python is named in ``__init__.pyi`` and loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
