"""A trained model as one file for other runtimes: prompts folded in as constants, preprocessing inside.

Start at `export.py`. `classifier.py` and `detector.py` say what is written, `onnx.py` how, and `parity.py` what counts
as equal. `preprocess.py`, `resize.py`, `detection_modules.py`, `torchvision_detection.py` and `nms.py` do what
prediction does, in operators that can be traced.

An extra: pip install 'vpt[export]'.
"""
