"""What judges decoded pictures beside their pixels: a critic of patches, and features for what people see."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import vgg16

from schemas.errors import JuZhouError

VGG_ENDS = (4, 9, 16, 23, 30)
"""Where VGG-16's five blocks end, behind their last ReLU: the layers of LPIPS."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of pictures in 0 … 1, as VGG-16 has them."""


class PatchCritic(nn.Module):
    """Tells real pictures from decoded ones, patch by patch (PatchGAN, arXiv 1611.07004)."""

    def __init__(self, width: int = 64, blocks: int = 3) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2))]
        for _ in range(blocks - 1):
            wide = 2 * width
            layers.append(
                nn.Sequential(
                    nn.Conv2d(width, wide, 4, stride=2, padding=1, bias=False), nn.GroupNorm(8, wide), nn.LeakyReLU(0.2)
                )
            )
            width = wide
        self.layers = nn.ModuleList(layers)
        self.out = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(batch, 3, h, w) in −1 … 1 → a logit for each patch, (batch, 1, h / 8, w / 8), and the features before it."""
        features = []
        for layer in self.layers:
            pictures = layer(pictures)
            features.append(pictures)
        return self.out(pictures), features


class Perceptual(nn.Module):
    """The distance of two pictures in VGG-16's features, each position's of length 1 (LPIPS, arXiv 1801.03924).

    LPIPS weighs the channels by what people said; here they all count the same.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: Path) -> None:
        """Load VGG-16's weights, a safetensors file with torchvision's names.

        Raises:
            JuZhouError: they are not there, or of another network.
        """
        super().__init__()
        network = vgg16()
        try:
            network.load_state_dict(load_file(weights))
        except (OSError, RuntimeError) as error:
            raise JuZhouError(
                f"{weights}: no weights of torchvision's VGG-16 ({str(error).splitlines()[0]})"
            ) from error
        self.layers = network.features.eval().requires_grad_(False)
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, decoded: Tensor, pictures: Tensor) -> Tensor:
        """Both (batch, 3, h, w) in −1 … 1 → a scalar."""
        ours, theirs = ((part / 2 + 0.5 - self.mean) / self.deviation for part in (decoded, pictures))
        total = decoded.new_zeros(())
        for number, layer in enumerate(self.layers, start=1):
            ours, theirs = layer(ours), layer(theirs)
            if number in VGG_ENDS:
                total = total + (F.normalize(ours) - F.normalize(theirs)).square().sum(dim=1).mean()
        return total


def feature_matching(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Mean over the layers of the L1 distance of a critic's features (arXiv 1711.11585, equation 4)."""
    return torch.stack([F.l1_loss(one, other.detach()) for one, other in zip(ours, theirs, strict=True)]).mean()


def hinge_loss(real: Tensor, decoded: Tensor) -> Tensor:
    """½ mean (relu(1 − D(real)) + relu(1 + D(decoded))): the critic's (arXiv 1705.02894)."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + decoded).mean())


def balance(reconstruction: Tensor, adversarial: Tensor, last: nn.Parameter) -> Tensor:
    """‖∇ reconstruction‖ / ‖∇ adversarial‖ at the last layer, at most 10⁴ (VQGAN, arXiv 2012.09841, equation 7)."""
    one, other = (
        torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)
    )
    return (one / (other + 1e-6)).clamp(max=1e4).detach()
