"""Images of N channels for a backbone with three: a 1x1 convolution in front of the patch embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelMix(nn.Module):
    """Maps images of N channels to the three of the backbone.

    At first this equals timm's `in_chans`, which repeats the filters of the patch embedding over the channels, scaled
    by 3 / N (summed for N = 1): channel c counts for colour c mod 3. The backbone itself does not change.

    Args:
        count: N.
        learned: whether the 3 N weights are trained and stored with the task.

    >>> ChannelMix(4, learned=False).weight.tolist()
    [[0.75, 0.0, 0.0, 0.75], [0.0, 0.75, 0.0, 0.0], [0.0, 0.0, 0.75, 0.0]]
    """

    weight: Tensor

    def __init__(self, count: int, learned: bool) -> None:
        super().__init__()
        self.count, self.learned = count, learned
        weight = torch.ones(3, 1) if count == 1 else 3 / count * torch.eye(3).repeat(1, -(-count // 3))[:, :count]
        if learned:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight, persistent=False)

    def forward(self, images: Tensor, mean: Tensor) -> Tensor:
        """Colours (B, 3, H, W) of images (B, N, H, W), on the same scale as the backbone's mean (3, 1, 1).

        Normalising them is the same as weighting channels that were normalised with mean and std of each colour.
        """
        # Channel by channel: autocast would compute a convolution in half precision, too coarse for pixels.
        colours = (1 - self.weight.sum(1)).view(3, 1, 1) * mean
        for channel in range(self.count):
            colours = colours + self.weight[:, channel].view(3, 1, 1) * images[:, channel : channel + 1]
        return colours
