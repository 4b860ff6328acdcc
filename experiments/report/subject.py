"""What the titles of pictures call a run: its network, its data and its test error, in plain words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

NETWORKS = {
    "2st_fcn": "2xST-FCN",
    "cnn_3d": "3-D CNN",
    "cnn_bn": "CNN with batch normalisation",
    "image_cnn": "CNN",
    "image_st_cnn": "ST-CNN",
    "localiser": "One spatial transformer",
    "st_cnn_3d": "3-D ST-CNN",
    "st_cnn_bn": "ST-CNN with batch normalisation",
    "st_cnn_iterated": "ST-CNN, applied twice",
    "st_cnn_shared": "ST-CNN with shared convolutions",
}
TRANSFORMS = {"affine3d": "affine", "tps": "thin plate spline", "translation": "windows of fixed size"}


@dataclass(frozen=True)
class Score:
    """The number of a run that its titles tell.

    Attributes:
        metric: of the result.
        words: with a place for the number.
    """

    metric: str = "test_error"
    words: str = "test error {:.2f}\N{NO-BREAK SPACE}%"

    def told(self, metrics: Mapping[str, Any]) -> str:
        """The words with the number; empty where it is not measured."""
        value = metrics.get(self.metric)
        return self.words.format(value) if isinstance(value, int | float) else ""


@dataclass(frozen=True)
class Subject:
    """A run in the words of a title.

    Attributes:
        network: such as "ST-CNN (affine)".
        data: such as "rotated digits (R)".
        score: such as "test error 0.58 %"; empty where it is not known.
        training: such as "8,000 steps, schedule fast, seed 0"; empty where it is not known.
    """

    network: str
    data: str
    score: str = ""
    training: str = ""

    def title(self, sentence: str) -> str:
        """A sentence and, after it, the score."""
        return f"{sentence}: {self.score}" if self.score else sentence

    def note(self, text: str) -> str:
        """A text and, after it, how the network was trained."""
        return f"{text} Training: {self.training}." if self.training else text


@dataclass(frozen=True)
class Words:
    """What a section calls its runs.

    Attributes:
        data: experiment, or name of the data set, -> its images, such as "rotated digits (R)".
        networks: experiment -> its network; of others, `network_name`.
        score: the number that titles tell.
        variant: what tells the images of a run, given as to `subject`, from others of the experiment, in brackets after
            `data`; None: nothing.
    """

    data: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    score: Score = Score()
    variant: Callable[[Mapping[str, Any]], str] | None = None

    def subject(self, run: Mapping[str, Any]) -> Subject:
        """Of a run.

        Args:
            run: `experiment`, `dataset`, `model`, `transform`, `config`; of a finished one also `metrics`,
                `iterations`, `trainer` and `seed`, as `Result.to_dict`.
        """
        experiment, dataset = run["experiment"], run["dataset"]
        data = self.data.get(experiment) or self.data.get(dataset) or dataset
        if self.variant is not None:
            data = f"{data} ({self.variant(run)})"
        network = self.networks.get(experiment) or network_name(run["model"], run["transform"])
        if "metrics" not in run:
            return Subject(network, data)
        training = f"{run['iterations']:,} steps, schedule {run['trainer']}, seed {run['seed']}"
        return Subject(network, data, self.score.told(run["metrics"]), training)


def network_name(model: str, transform: str | None) -> str:
    """A network in the paper's spelling: ("st_cnn", "tps") -> "ST-CNN (thin plate spline)"."""
    name = NETWORKS.get(model, model.upper().replace("_", "-"))
    return name if transform is None else f"{name} ({TRANSFORMS.get(transform, transform)})"
