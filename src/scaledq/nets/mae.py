"""The masked autoencoder (He et al., 2021): what a ViT must tell of the patches it cannot see.

https://arxiv.org/abs/2111.06377. Shapes: P patches of a stack, V of them visible, M numbers of a
patch, E the decoder's width.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from scaledq.core.errors import ConfigError
from scaledq.core.outputs import Outputs
from scaledq.nets.blocks import floats
from scaledq.nets.vit import Layer, ViT, assembled, check_width, chosen, initialise, patches, sincos


class MaskedAutoencoder(nn.Module):
    """Shows an encoder a random part of the patches and predicts all of them.

    Raises:
      ConfigError: a mask that leaves no patch visible or none hidden.
    """

    positions: Float[Tensor, "P E"]

    def __init__(self, encoder: ViT, *, mask: float, width: int, depth: int, heads: int):
        super().__init__()
        check_width(width, heads, where="objective.decoder")
        count = encoder.grid[0] * encoder.grid[1]
        self.visible = count - round(mask * count)
        if not 0 < self.visible < count:
            raise ConfigError(
                f"objective.mask: {mask} of {count} patches leaves {self.visible} to see; at "
                "least one has to be seen and one hidden: change it, or encoder.patch"
            )
        self.encoder = encoder
        self.embed = nn.Linear(encoder.out_shape[0], width)
        self.hidden = nn.Parameter(torch.randn(width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, encoder.stack * encoder.patch**2)
        self.register_buffer("positions", sincos(encoder.grid, width), persistent=False)
        for part in (self.embed, self.layers, self.predict):
            initialise(part)

    def forward(
        self, obs: Shaped[Tensor, "B S H W"], task: Int[Tensor, "B"], *, noise: int
    ) -> Outputs:
        """`patches` [B P M] as they are, `predicted` [B P M], `hidden` [B P] bool, and `features`
        [B D], the mean of the visible tokens; uint8 observations are divided by 255.

        Args:
          noise: names the draw of what is hidden.
        """
        seen = patches(floats(obs, self.hidden.dtype), self.encoder.patch)
        chance = torch.Generator(seen.device).manual_seed(noise)
        order = torch.rand(seen.shape[:2], device=seen.device, generator=chance).argsort(1)
        tokens = self.encoder.encode(seen, order[:, : self.visible])
        return {
            "features": tokens.mean(1),
            "patches": seen,
            "predicted": self.decode(tokens, order),
            "hidden": order.argsort(1) >= self.visible,
        }

    def decode(
        self, tokens: Float[Tensor, "B V D"], order: Int[Tensor, "B P"]
    ) -> Float[Tensor, "B P M"]:
        """Predicts every patch from the tokens of those that come first in `order`."""
        x = unshuffled(self.embed(tokens), self.hidden, order) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.predict(self.norm(x))

    def picture(self, predicted: Float[Tensor, "B P M"]) -> Float[Tensor, "B S H W"]:
        """Patches put together."""
        return assembled(predicted, self.encoder.grid, stack=self.encoder.stack)


def unshuffled(
    tokens: Float[Tensor, "B V E"], filler: Float[Tensor, "E"], order: Int[Tensor, "B P"]
) -> Float[Tensor, "B P E"]:
    """Puts token i at place order[i] of its row, and `filler` at the places that are left."""
    left = order.shape[1] - tokens.shape[1]
    every = torch.cat([tokens, filler.expand(len(tokens), left, -1).to(tokens.dtype)], dim=1)
    return chosen(every, order.argsort(1))
