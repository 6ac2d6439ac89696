"""Export of a trained model to a single file for other runtimes, with constant prompts and built-in preprocessing.

Start at `export.py`. `classifier.py` and `detector.py` define the exported modules, `onnx.py` writes them, and
`parity.py` compares results. `preprocess.py`, `resize.py`, `detection_modules.py`, `torchvision_detection.py` and
`nms.py` are traceable versions of the operations of prediction.

Needs an extra: pip install 'visual-prompt-tuning[export]'.
"""
