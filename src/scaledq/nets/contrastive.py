"""The network that contrastive predictive coding trains: does s' follow s?

As the baseline of Lee et al. (2022), who put two layers of 512 units on the encoder and score pairs
bilinearly. Shapes: B batch, D features.
"""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from scaledq.core.outputs import Outputs
from scaledq.nets.blocks import floats
from scaledq.nets.head import NeckConfig, SpatialEmbedding


class Contrastive(nn.Module):
    """Encoder -> spatial embedding -> ReLU layers -> `features`, and a linear map of them.

    The score of a pair (s, s') is predicted(s) . features(s').
    """

    def __init__(self, encoder: nn.Module, neck: NeckConfig, *, width: int, layers: int):
        super().__init__()
        self.encoder = encoder
        shape: tuple[int, ...] = encoder.out_shape  # pyright: ignore[reportAssignmentType]
        self.embedding = SpatialEmbedding(neck, shape)
        self.trunk, size = nn.Sequential(), self.embedding.size
        for _ in range(layers):
            self.trunk.append(nn.Linear(size, width))
            self.trunk.append(nn.ReLU(inplace=True))
            size = width
        self.bilinear = nn.Parameter(torch.randn(width, width) / width**0.5)

    def forward(self, obs: Shaped[Tensor, "B S *frame"], task: Int[Tensor, "B"]) -> Outputs:
        """`features` [B D] and `predicted` [B D]; uint8 observations are divided by 255."""
        x = self.encoder(floats(obs, self.bilinear.dtype))
        features = self.trunk(self.embedding(x))
        return {"features": features, "predicted": features @ self.bilinear}
