"""Theta's gradient from two looks at every image: for photographs, in short schedules."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.engine.build import UserError
from experiments.engine.task import Batch, Classification


class SmoothedClassification(Classification):
    """Classification, where theta may follow the smoothed loss.

    The loss of a deep network on photographs is rough in theta, and its slope, which the sampler hands back, says
    little of where to go (`scripts/landscape.py` measures it). With `smoothing`, theta gets the gradient of the loss's
    mean over a Gaussian around it instead, estimated from two mirrored draws (Gaussian smoothing, Nesterov and Spokoiny
    2017): (loss(theta + n) - loss(theta - n)) / (2 sigma^2) * n. All else is trained, by its own gradient, on the crops
    at theta + n. Evaluation is at theta.

    smoothing: sigma in theta's units, at the start and at the end of training; null: the sampler's own gradient.
    raises: UserError for anything else.
    """

    def __init__(self, smoothing: Sequence[float] | None = None) -> None:
        if smoothing is not None and (len(smoothing) != 2 or min(smoothing) <= 0):
            raise UserError(
                f"task.smoothing={smoothing} is not valid: it is two numbers above 0, such as [0.3,0.15], or null."
            )
        self.smoothing = smoothing
        self.sigma = smoothing[0] if smoothing else 0.0

    def at(self, model: nn.Module, share: float) -> None:
        """share: of the training that is done."""
        if self.smoothing:
            first, last = self.smoothing
            self.sigma = first + share * (last - first)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        if not self.smoothing:
            return super().loss(model, batch)
        if not hasattr(model, "parallel"):
            raise UserError(
                "task.smoothing is of the gradient of parallel transformers, and this network has none: "
                "task.smoothing=null, or model=image_st_cnn."
            )
        images, labels = batch
        parallel = model.parallel
        noise = self.sigma * torch.randn(
            len(images), parallel.count, parallel.transform.num_params, device=images.device
        )
        logits, aux = model(images, noise)
        loss, sums = self.counted(logits, labels)
        ahead = F.cross_entropy(logits.detach().float(), labels, reduction="none")
        behind = F.cross_entropy(aux.pop("mirrored").float(), labels, reduction="none")
        slope = (ahead - behind) / (2 * self.sigma**2)
        towards = (aux["theta"].float() * (slope[:, None, None] * noise).detach()).sum((1, 2)).mean()
        return loss + towards - towards.detach(), sums, aux
