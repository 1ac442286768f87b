r"""Training a classifier, a segmenter or a detector on one's own images.

`train` takes images (`read_images`, `digit_images`), the name of a network and a budget, and does
what is known to matter: augmentation, a warm-up and a cosine, averaged weights, the epoch chosen by
validation. The run's folder holds at every instant a model that can be used and a state that the
same call goes on from:

    config.json         recipe, classes, preprocessing, data
    model.safetensors   the best weights so far (averaged ones)
    metrics.jsonl       a line for each validation
    last.pt             the state to go on from, bit for bit
    left-out.txt        pictures and records that were left out, if any

A narrow type is taken only where it was measured to be faster: on many CPUs bf16 is slower.

Cost: three forward passes an image and epoch; memory of a batch's maps and three to five copies of
the weights.

References:
    Tan and Le (2019), "EfficientNet", arXiv:1905.11946, section 5.2 (the elements of the recipe).
    Qin et al. (2019), "ThunderNet", arXiv:1903.11752, section 4.1 (multi-scale, detection).
    Wightman et al. (2021), "ResNet strikes back", arXiv:2110.00476, section 4.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import paragone
from paragone.training.run_folder import Folder, seeded
from paragone.vision._data_augment import Augmentation
from paragone.vision._data_sets import ImageData, Task
from paragone.vision._training_loop import Loop, Progressed, batch_loss
from paragone.vision._training_models import build_network, models
from paragone.vision._training_recipe import Recipe, usual_for
from paragone.vision._training_use import PRIMARY, Inputs, TrainedModel, evaluate
from paragone.vision._training_weights import Loaded, load_weights, read_weights

__all__ = [
    "PRIMARY", "Augmentation", "Progressed", "TrainedModel", "Training", "load_model", "models",
    "train", "usual_augmentation",
]  # fmt: skip


_MOST_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Training:
    """What a run has come to.

    Attributes:
        model: The chosen weights, ready to use.
        metrics: Those of the validation that chose them, and "epoch".
        test: The metrics on `data.test`, which nothing was chosen by, or None.
        history: A dict for each validation.
        seconds: Seconds of training, over all parts of the run.
        weights: What became of the given weights, or None.
        folder: Where the run lies, or None.
    """

    model: TrainedModel
    metrics: dict[str, Any]
    test: dict[str, Any] | None
    history: list[dict[str, Any]]
    seconds: float
    weights: Loaded | None
    folder: Path | None


def train(
    task: Task,
    data: ImageData,
    model: str | Callable[..., nn.Module] | None = None,
    *,
    epochs: int | None = None,
    budget: float | None = None,
    batch: int | None = None,
    size: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    warmup: float = 0.05,
    clip_norm: float | None = None,
    label_smoothing: float | None = None,
    ema: bool = True,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    channels_last: bool = True,
    progressive: float = 1.0,
    multi_scale: Sequence[int] = (),
    augmentation: Augmentation | None = None,
    fit: Literal["stretch", "letterbox", "cover", "native"] | None = None,
    weights: str | os.PathLike[str] | None = None,
    freeze: Sequence[str] = (),
    keep: Literal["best", "last"] = "best",
    out: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: Callable[[Progressed], None] | None = None,
    seed: int = 0,
    threads: int | None = None,
    workers: int = 1,
    device: str = "auto",
    model_options: dict[str, Any] | None = None,
) -> Training:
    """Trains a network on images; the same call with the same folder goes on.

    Prefer it to a loop of one's own for small data sets and small machines; prefer a framework
    with several processes for data that takes several GPUs.

    Args:
        task: "classify", "segment" or "detect".
        data: What `read_images` or `paragone.vision.samples` give.
        model: One of `models(task)`, or a function that takes `num_classes` and builds a network.
        epochs: Passes over the training images; None with a budget: as many as it allows.
        budget: Seconds for training and validation; the schedule ends with them.
        batch: Images of a step.
        size: Side of the training images in pixels.
        optimizer: "sgd" or any optimizer of `paragone.training`, in lower case.
        lr: Largest learning rate.
        weight_decay: Decay of weights; norms and biases have none.
        warmup: Share of the run in which the learning rate rises.
        clip_norm: Largest norm of a step's gradients, or None.
        label_smoothing: Share of the target that all classes have.
        ema: Whether averaged weights are validated and saved.
        precision: "auto" measures whether a narrow type is faster here.
        channels_last: Whether maps lie in memory pixel by pixel; faster for light networks.
        progressive: Share of `size` to begin with; 1: the full size from the start.
        multi_scale: Sides that a batch is drawn to have, in place of `size` alone.
        augmentation: How much images vary; None: as is usual for the task.
        fit: How whole images meet the network in validation and use: "stretch", "letterbox",
            "cover" (classification), "native" (segmentation).
        weights: State dict or safetensors to start from; what does not fit is told.
        freeze: Parts of the network that keep their weights, such as "backbone".
        keep: "best" by validation, or "last": then the validation has chosen nothing.
        out: The run's folder; None: nothing is written.
        resume: Whether to go on from what lies there; False starts anew.
        progress: Called with each event.
        seed: Seed of weights, order and augmentation.
        threads: Threads of torch; None: as they are.
        workers: Threads that make batches; 0: none.
        device: "auto", "cpu", "cuda" and so on.
        model_options: Further arguments of the network, such as `{"width": 0.5}`.

    Raises:
        ValueError: An argument out of range, a folder of another recipe, weights of which nothing
            fits, a loss that is no number.

    Example:
        >>> from paragone.vision.samples import digit_images
        >>> net = lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))
        >>> train("classify", digit_images(8), net, size=8, epochs=1, batch=512).metrics["epoch"]
        1
    """
    data = data.for_task(task)
    recipe = Recipe.make(
        task, model=_name(model), epochs=epochs, budget=budget, batch=batch, size=size,
        optimizer=optimizer, lr=lr, weight_decay=weight_decay, warmup=warmup, clip_norm=clip_norm,
        label_smoothing=label_smoothing, ema=ema, precision=precision,
        channels_last=channels_last, progressive=progressive, multi_scale=tuple(multi_scale),
        augmentation=augmentation or usual_augmentation(task, data), fit=fit, freeze=tuple(freeze),
        keep=keep, seed=seed, model_options=dict(model_options or {}),
    )  # fmt: skip
    tell = progress or (lambda event: None)
    place, begun = _device(device), time.monotonic()
    with _threads(threads):
        with seeded(seed):
            network = build_network(task, model if callable(model) else recipe.model,
                                    len(data.classes), recipe.model_options)  # fmt: skip
        loaded = None if weights is None else load_weights(network, weights)
        network = network.to(place)
        if recipe.channels_last:
            network.to(memory_format=torch.channels_last)  # pyright: ignore
        folder = None if out is None else Folder(out)
        config = _config(recipe, data, weights)
        before = _continued(folder, config, resume)
        kind = before["precision"] if before else _precision(recipe, network, data, place)
        inputs = Inputs(task, recipe.size, recipe.fit, place, recipe.channels_last, kind)
        if folder is not None:
            folder.clean()
            if data.problems:
                folder.write_problems(data.problems)
            if before is None:
                folder.write_config({**config, "precision": kind})
        for line in ([] if loaded is None else [str(loaded)]) + _notes(data):
            tell(Progressed("note", text=line))
        loop = Loop(recipe, data, network, inputs, folder, tell, workers, begun)
        state = None if folder is None or before is None else folder.last()
        if state is not None:
            loop.load(state)
            tell(Progressed("note", text=f"goes on from epoch {loop.epoch}, step {loop.step}"))
        loop.go()
        return _finished(loop, network, {**config, "precision": kind}, loaded)


def _finished(
    loop: Loop, network: nn.Module, config: dict[str, Any], loaded: Loaded | None
) -> Training:
    folder, data = loop.folder, loop.data
    state = loop.kept if folder is None else read_weights(folder.path / "model.safetensors")
    network.load_state_dict(state)
    network.eval()
    test = None
    if data.test is not None and len(data.test):
        test = evaluate(network, data.test, data.classes, loop.inputs, max(loop.recipe.batch, 16))
    if folder is not None:
        folder.write_config({
            **config, "finished": True, "metrics": loop.chosen, "test": test,
            "seconds": loop.seconds, "loaded": None if loaded is None else str(loaded),
        })  # fmt: skip
    model = TrainedModel(network, data.classes, loop.inputs, loop.chosen, config)
    return Training(
        model, loop.chosen, test, loop.history, loop.seconds, loaded,
        None if folder is None else folder.path,
    )  # fmt: skip


def _name(model: str | Callable[..., nn.Module] | None) -> str | None:
    if model is None or isinstance(model, str):
        return model
    return getattr(model, "__qualname__", type(model).__name__)


def usual_augmentation(task: Task, data: ImageData) -> Augmentation:
    """Returns what `train` does without being told; digits, for one, must not be mirrored.

    Args:
        task: "classify", "segment" or "detect".
        data: What is trained on.
    """
    usual = usual_for(task)
    return dataclasses.replace(usual, mirror="horizontal" if data.mirrored else "none")


def _device(device: str) -> str:
    if device != "auto":
        return str(torch.device(device))
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None and count < 1:
        raise ValueError(f"threads={count}: at least 1")
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _notes(data: ImageData) -> list[str]:
    """What was left out of the data, never silently."""
    if not data.skipped:
        return []
    counts = ", ".join(f"{reason}: {count}" for reason, count in data.skipped.items())
    more = len(data.problems) - _MOST_NAMED
    last = [f"… and {more} more, all in the run's left-out.txt"] if more > 0 else []
    return [f"left out: {counts}", *data.problems[:_MOST_NAMED], *last]


def _config(
    recipe: Recipe, data: ImageData, weights: str | os.PathLike[str] | None
) -> dict[str, Any]:
    return {
        "paragone": paragone.__version__,
        "task": recipe.task,
        "model": recipe.model,
        "classes": list(data.classes),
        "recipe": recipe.to_json(),
        "weights": None if weights is None else str(weights),
        "data": {
            "name": data.name, "fingerprint": data.fingerprint(), "train": len(data.train),
            "validation": len(data.validation), "test": 0 if data.test is None else len(data.test),
            "skipped": data.skipped,
        },
    }  # fmt: skip


def _continued(
    folder: Folder | None, config: dict[str, Any], resume: bool
) -> dict[str, Any] | None:
    """The earlier part's config.json, if this is the same run."""
    before = None if folder is None else folder.config()
    if folder is None or before is None:
        return None
    if not resume:
        for name in (
            "last.pt",
            "model.safetensors",
            "metrics.jsonl",
            "left-out.txt",
            "config.json",
        ):
            (folder.path / name).unlink(missing_ok=True)
        return None
    changed = [
        f"recipe.{k} (there {before.get('recipe', {}).get(k)!r}, now {v!r})"
        for k, v in config["recipe"].items()
        if before.get("recipe", {}).get(k) != v
    ]
    for key in ("task", "model", "classes", "weights"):
        if before.get(key) != config[key]:
            changed.append(f"{key} (there {before.get(key)!r}, now {config[key]!r})")
    if before.get("data", {}).get("fingerprint") != config["data"]["fingerprint"]:
        changed.append("data (other files, classes or targets)")
    if changed:
        raise ValueError(
            f"{folder.path} holds another run: {'; '.join(changed[:3])}; give another out, or "
            "resume=False to start anew"
        )
    return before


def _precision(recipe: Recipe, network: nn.Module, data: ImageData, device: str) -> str:
    """The type that this network trains fastest in on this machine, measured on a few images."""
    if recipe.precision != "auto":
        return recipe.precision
    if recipe.task == "detect":
        return "fp32"
    from paragone.vision._training_feed import Feed

    few = dataclasses.replace(recipe, batch=min(recipe.batch, 4 if device == "cpu" else 64))
    feed = Feed(data.train, few, 0)
    batch = feed.make(0, 0, recipe.size, feed.order(0)[0])
    # On a CPU its own clock: the wall's tells more of other programs than of the type.
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    trials = {kind: copy.deepcopy(network).train() for kind in seconds}
    for kind in ("fp32", "bf16") * 3:
        inputs = Inputs(recipe.task, recipe.size, recipe.fit, device, recipe.channels_last, kind)
        begun = clock()
        with seeded(0):
            with inputs.autocast():
                loss = batch_loss(trials[kind], batch, inputs, recipe)
            loss.backward()
        loss.item()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds[kind].append(clock() - begun)
    fastest = {kind: min(times[1:]) for kind, times in seconds.items()}
    return "bf16" if fastest["bf16"] < 0.8 * fastest["fp32"] else "fp32"


def load_model(
    folder: str | os.PathLike[str],
    network: nn.Module | None = None,
    *,
    device: str = "auto",
) -> TrainedModel:
    """Loads a trained model with its classes and preprocessing.

    Args:
        folder: The run's folder; a run that goes on has its best weights so far there.
        network: A network of the same shape, if the run was given a function of its own.
        device: "auto", "cpu", "cuda" and so on.

    Raises:
        ValueError: No run lies there, or its weights are not those of its network.
    """
    path = Path(folder)
    if not (path / "config.json").is_file() or not (path / "model.safetensors").is_file():
        raise ValueError(
            f"{path}: expected the folder of a run with config.json and model.safetensors; a run "
            "writes the latter at its first validation"
        )
    config = Folder(path).config()
    assert config is not None
    recipe, task = config["recipe"], config["task"]
    if network is None:
        if config["model"] not in models(task):
            raise ValueError(
                f"{path}: its network {config['model']!r} was given as a function: pass the "
                "network to load_model"
            )
        network = build_network(task, config["model"], len(config["classes"]),
                                recipe["model_options"])  # fmt: skip
    try:
        network.load_state_dict(read_weights(path / "model.safetensors"))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path / 'model.safetensors'}: not of this network: {reason}") from error
    place = _device(device)
    network = network.to(place)
    if recipe["channels_last"]:
        network.to(memory_format=torch.channels_last)  # pyright: ignore
    kind = config.get("precision", "fp32")
    if place == "cpu" and kind == "fp16":
        kind = "fp32"
    inputs = Inputs(task, recipe["size"], recipe["fit"], place, recipe["channels_last"], kind)
    return TrainedModel(network, config["classes"], inputs, config.get("metrics", {}), config)
