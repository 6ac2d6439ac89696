"""Batch norm over batches that are divided across processes; torch's SyncBatchNorm is for GPUs alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vpt.utils.distributed import DividedSum


class DividedBatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes, where `total` is set; otherwise torch's."""

    total: DividedSum | None = None

    def forward(self, grids: Tensor) -> Tensor:
        """Normalised grids (B, C, h, w)."""
        if self.total is None or not self.training:
            return super().forward(grids)
        rows = grids.float().transpose(0, 1).flatten(1)
        count = rows.new_full((1,), rows.shape[1])
        *sums, count = self.total(torch.cat([rows.sum(1), count])).unbind()
        mean = torch.stack(sums) / count
        variance = self.total((rows - mean[:, None]).square().sum(1)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
            self.num_batches_tracked += 1
        shape = (1, -1, 1, 1)
        normal = (grids - mean.view(shape)) * (variance.view(shape) + self.eps).rsqrt()
        return normal * self.weight.view(shape) + self.bias.view(shape)
