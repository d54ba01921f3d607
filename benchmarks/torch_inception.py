"""FID's Inception in PyTorch, built from our tables: what `inception_speed` holds ours against.

Parameters have the official names. As in pytorch-fid, batch norms are layers of their own.
"""

import torch
from torch import nn
from torch.nn import functional as F

from imgen.evaluation.networks.inception import (
    BLOCKS,
    CLASSES,
    EPSILON,
    SIZE,
    SPATIAL_CHANNELS,
    STEM,
)
from imgen.evaluation.networks.inception import Conv as ConvEntry
from imgen.evaluation.networks.inception import MaxPool as PoolEntry


class Conv(nn.Module):
    def __init__(self, channels: int, entry: ConvEntry):
        super().__init__()
        same = entry.padding == "SAME"
        padding = tuple(k // 2 for k in entry.kernel) if same else 0
        self.conv = nn.Conv2d(
            channels, entry.features, entry.kernel, entry.stride, padding, bias=False
        )
        self.bn = nn.BatchNorm2d(entry.features, eps=EPSILON)
        self.average = entry.average

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.average:
            x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Steps(nn.Module):
    """The convolutions of some branches, by name."""

    def __init__(self, channels: int, branches):
        super().__init__()
        self.branches, self.channels = branches, 0
        for branch in branches:
            width = channels
            for step in branch:
                if isinstance(step, PoolEntry):
                    continue
                convs = (step,) if isinstance(step, ConvEntry) else step
                for entry in convs:
                    self.add_module(entry.name, Conv(width, entry))
                width = sum(entry.features for entry in convs)
            self.channels += width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                if isinstance(step, PoolEntry):
                    y = F.max_pool2d(y, 3, step.stride, padding=1 if step.stride == 1 else 0)
                elif isinstance(step, ConvEntry):
                    y = self.get_submodule(step.name)(y)
                else:
                    y = torch.cat([self.get_submodule(entry.name)(y) for entry in step], 1)
            outputs.append(y)
        return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]


class Inception(Steps):
    """uint8 [B, H, W, 3] -> pool3, spatial and logits, by pytorch-fid's preprocessing."""

    def __init__(self):
        super().__init__(3, (STEM,))
        channels = self.channels
        for name, branches in BLOCKS.items():
            block = Steps(channels, branches)
            self.add_module(name, block)
            channels = block.channels
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        x = images.permute(0, 3, 1, 2).float() / 255
        x = 2 * F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False) - 1
        x = super().forward(x)
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
            if name == "Mixed_6d":
                spatial = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        pool3 = x.mean((2, 3))
        return {"pool3": pool3, "spatial": spatial, "logits": F.linear(pool3, self.fc.weight)}
