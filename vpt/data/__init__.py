"""From files to batches: reading and checking data sets, splits, decoding, augmentation, loading.

    load_data(config) -> LabelledData -> check, apply -> make_loader -> Batch

Nothing is imported here, so that `vpt.data.dataset` costs no torch.
"""
