"""Export of a trained model to a single file for other runtimes, with constant prompts and built-in preprocessing.

Start at `export.py`. `classifier.py`, `detector.py` and `segmenter.py` define the exported modules (`task_export.py` is
their base class), `formats.py` lists what they are written as, and `benchmark.py` compares these formats.
`preprocess.py`, `resize.py`, `detection_modules.py`, `torchvision_detection.py` and `nms.py` are traceable versions of
the operations of prediction, `integer_division.py` one that all runtimes compute alike.

Needs an extra: pip install 'visual-prompt-tuning[export]' or 'visual-prompt-tuning[openvino]'.
"""
