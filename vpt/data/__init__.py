"""Data: reading and validating data sets, splits, decoding, augmentation, loading.

    load_data(config) -> LabelledData -> check, apply -> make_loader -> Batch

Nothing is imported here, so that importing `vpt.data.dataset` does not import torch.
"""
