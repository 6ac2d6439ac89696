"""A trained model as one file for other runtimes: prompts folded in as constants, preprocessing inside.

`write.py` is the way through. `classifier.py` and `detector.py` say what is written, `files.py` how, and `agreement.py`
what counts as equal. `square.py`, `resize.py`, `finders.py`, `traceable.py` and `suppress.py` do in operators that can
be traced what prediction does.

An extra: pip install 'vpt[export]'.
"""

from vpt.interop.export.export import Exported, export

__all__ = ["Exported", "export"]
