"""What is learnt and how it is counted. The loop knows only `loss`, `watch` and `evaluate`."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn import in_frame

Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) in [0, 1], labels (B,)


class Classification:
    """Softmax cross-entropy; errors are counted, never averaged over unequal batches."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """returns: the loss to minimise, sums over the batch (`loss`, `errors`, `images`) and the model's aux."""
        images, labels = batch
        logits, aux = model(images)
        return (*self.counted(logits, labels), aux)

    def counted(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """returns: the loss, and the sums."""
        loss = F.cross_entropy(logits.float(), labels)
        with torch.no_grad():
            sums = {
                "loss": loss.detach() * len(labels),
                "errors": (logits.argmax(1) != labels).sum(),
                "images": torch.full((), len(labels), device=loss.device),
            }
        return loss, sums

    @torch.no_grad()
    def watch(self, model: nn.Module, aux: dict[str, Tensor]) -> dict[str, float]:
        """How the transformers fare on one batch: in-frame share, mean and spread of theta, per transformer."""
        if "theta" not in aux:
            return {}
        out: dict[str, float] = {}
        transform = model.transformers.transform
        for k in range(model.transformers.count):
            theta = aux["theta"][:, k].float()  # (B, P)
            shares = in_frame(transform.grid(theta, aux["warped"].shape[3:]))
            out[f"st{k}/in_frame"] = shares.mean().item()
            out[f"st{k}/out_of_frame_images"] = (shares == 0).float().mean().item()
            for p in range(min(theta.shape[1], 8)):
                out[f"st{k}/theta_{p}_mean"] = theta[:, p].mean().item()
                out[f"st{k}/theta_{p}_std"] = theta[:, p].std(correction=0).item()
        return out

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[dict[str, float], Tensor]:
        """returns: `error` in percent and mean `loss`, both over all images, and the predicted classes (N,)."""
        model.eval()
        predictions, errors, loss, count = [], 0, 0.0, 0
        for images, labels in batches:
            logits, _ = model(images)
            predicted = logits.argmax(1)
            predictions.append(predicted.cpu())
            errors += int((predicted != labels).sum())
            loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
            count += len(labels)
        model.train()
        return {"error": 100 * errors / count, "loss": loss / count}, torch.cat(predictions)
