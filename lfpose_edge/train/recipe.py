"""A training recipe: the YAML file that holds every choice of a run. An unknown key is an error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lfpose_edge.errors import RecipeError, did_you_mean
from lfpose_edge.persons import Unlabelled
from lfpose_edge.skeleton import SKELETONS, Skeleton

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSet(_Section):
    """One COCO-keypoints JSON and the folder of its images, relative to the data root."""

    annotations: Path
    images: Path
    unlabelled: Unlabelled = "absent"
    """What a joint without a location is: not to be seen, or nobody knows."""
    joints: dict[str, str | None] = {}
    """Of the skeleton's joints that are not the file's of the same name: its name of them, or null."""


class TagSet(_Section):
    """A question sheet (``lfpose tags``) and its folder of images, relative to the data root.

    Without a single answer its persons are unlabelled: their pictures are all that is known.
    """

    sheet: Path
    images: Path


class TargetSet(DataSet):
    """A COCO JSON of which only the persons' boxes are read, but for the part that is located."""

    locations: Fraction = 0.0
    """The part of the persons whose locations are used, drawn once by the seed; of 0 none is read."""


def _several(sets: object) -> object:
    return [sets] if isinstance(sets, (dict, _Section)) else sets


class Data(_Section):
    train: Annotated[tuple[DataSet, ...], BeforeValidator(_several)] = ()
    """One set of located persons, or a list of sets that are mixed."""
    locations: Fraction = 1.0
    """The part of these persons that is used, drawn once by the seed; of 0 not even the files are read."""
    tags: Annotated[tuple[TagSet, ...], BeforeValidator(_several)] = ()
    """One question sheet, or several: persons without a location. Alone they train without any."""
    target: Annotated[tuple[TargetSet, ...], BeforeValidator(_several)] = ()
    """Persons of another domain, to adapt to, of whom the boxes are known, and of a few the locations."""
    val: DataSet
    """Measured now and then, for the record: nothing is chosen by it."""
    padding: Positive = 1.25
    """The crop's size over the box's."""
    workers: int | None = Field(None, ge=0)
    """Processes that load; None is for what suits the device: see ``loader_workers`` in ``loop.py``."""

    @property
    def source(self) -> tuple[DataSet, ...]:
        """The sets of located persons that are read: with no locations, none."""
        return self.train if self.locations else ()

    @property
    def unlocated(self) -> bool:
        """Whether there are persons without a location."""
        return bool(self.tags or self.target)

    @model_validator(mode="after")
    def _check(self) -> Data:
        if not self.source and not self.tags:
            message = "a training needs located persons (train), answered tag sheets (tags), or both"
            raise ValueError(message)
        return self


class Context(_Section):
    """The multi-scale spatial-guided context encoder; see ``networks/context_encoder.py``."""

    strides: tuple[Literal[8, 16, 32], ...] = (8, 16, 32)
    """Of the maps that are looked at, finest first; only one: single scale."""
    asking: Literal[8, 16, 32] = 16
    """Stride of the map whose cells look at the others, and where the decoder begins."""
    width: int = Field(96, ge=8)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    guided: bool = True
    """Look most at where joints are likely to be."""

    @model_validator(mode="after")
    def _check(self) -> Context:
        if list(self.strides) != sorted(set(self.strides)) or self.asking not in self.strides:
            message = f"strides {list(self.strides)} must rise, and {self.asking}, which asks, be among them"
            raise ValueError(message)
        if self.width % 4 or self.width % self.heads:
            message = f"width {self.width} must be a multiple of 4 and of the {self.heads} heads"
            raise ValueError(message)
        return self


class Prototyping(_Section):
    """Relation-encoded pose prototypes, which take the CAM head's place; see ``networks/prototypes.py``."""

    layers: int = Field(2, ge=0)
    """Of relation encoding; 0 leaves it out."""
    heads: int = Field(4, ge=1)
    memory: bool = True
    """Keep the mean prototypes of the data set."""


Upsample = Literal["nearest", "duc", "duc_separable"]


class Decoding(_Section):
    """How the decoder gets from the coarsest map to the CAM's stride; see ``networks/decoder.py``."""

    upsample: Upsample = "nearest"
    """What doubles the sides: copies of the cells; EFASNet's dense upsampling convolution, DUC; the same in
    a depthwise and a pointwise part."""
    laterals: tuple[Literal[4, 8, 16], ...] = (4, 8, 16)
    """Strides of the backbone's maps that are fused into it: EFASNet's FF."""
    fusion: Literal["add", "concat"] = "add"


class Aggregation(_Section):
    """EFASNet's FASM behind each of the backbone's four stages; see ``networks/aggregation.py``."""

    scales: int = Field(4, ge=2, le=8)
    """Groups of channels, each of which sees further than the one before."""
    ratio: int = Field(1, ge=1)
    """The map's channels over the block's."""
    select: bool = True
    """Weigh the scales against each other."""


class Network(_Section):
    backbone: str = "efficientnet_lite0"
    pretrained: bool | Path = True
    """Start from the published ImageNet weights, installed as a package (true) or in a file (its path)."""
    widths: tuple[int, ...] = (128, 96, 64, 48)
    """Decoder channels from stride 32 downwards; with a context encoder, from the stride that asks."""
    decode: Decoding = Decoding()
    aggregate: Aggregation | None = None
    context: Context | None = None
    prototypes: Prototyping | None = None
    refine: bool = False
    """Read coarse CAMs at stride 16, supervise them too, and let the rest of the decoder see them."""
    smooth_cells: float = Field(0.0, ge=0, le=16)
    """Smooth the trained network's CAMs with a Gaussian this wide; the target's, loss.sigma_cells, or 0."""
    freeze_stages: int = Field(0, ge=0)
    """The backbone's stem and this many of its stages keep their ImageNet weights."""

    @model_validator(mode="after")
    def _check(self) -> Network:
        if self.prototypes and not self.context:
            message = "prototypes are pooled from the context encoder's map: give network.context too"
            raise ValueError(message)
        if self.prototypes and self.context and self.context.width % self.prototypes.heads:
            message = f"context.width {self.context.width} must be a multiple of prototypes.heads"
            raise ValueError(message)
        first = self.context.asking if self.context else 32
        most = first.bit_length() - 2  # down to stride 4
        if not 1 <= len(self.widths) <= most:
            message = (
                f"widths takes 1 to {most} channel counts (strides {first} to 4), got {len(self.widths)}"
            )
            raise ValueError(message)
        if self.refine and (self.context or len(self.widths) < 2):
            message = "refine works at stride 16 of a decoder from stride 32: two widths or more, no context"
            raise ValueError(message)
        return self


class Augment(_Section):
    rotation_deg: float = Field(30.0, ge=0)
    """Standard deviation of the turn, cut off at three times that or a half turn."""
    turn: Fraction = 0.0
    """Chance that the crop is turned by any angle instead, upside down as likely as upright."""
    scale: float = Field(0.25, ge=0, lt=1)
    """The crop is scaled by a factor in [1 - scale, 1 + scale]."""
    shift: Fraction = 0.06
    """Largest shift, as a part of the crop."""
    zoom: Fraction = 0.0
    """Chance that the crop shows a part of the box only, as a picture that cuts the person off does."""
    flip: Fraction = 0.5
    coarse: Fraction = 0.0
    """Chance that the crop is seen through fewer pixels, down to a quarter a side, as people far away are."""
    color: Fraction = 0.25
    """Largest change of brightness, contrast and of each channel's gain."""
    cutout: Fraction = 0.3
    """Chance that a rectangle of up to a third of the crop is filled with noise."""
    intruder: Fraction = 0.0
    """Chance that a part of another person's crop covers one side, as in a crowd; of located persons only."""


class Stage(_Section):
    """Some epochs at one crop size; small crops first make a training cheaper."""

    epochs: int = Field(ge=1)
    size: tuple[int, int]
    """Crop height and width; multiples of 32."""
    augment: Augment | None = None
    """Random changes of this stage; the recipe's when not given. Milder ones at the end fit real pictures."""

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if any(s % 32 or s <= 0 for s in self.size):
            message = f"size {list(self.size)} must be positive multiples of 32"
            raise ValueError(message)
        return self


class Loss(_Section):
    sigma_cells: Positive = 1.5
    """Standard deviation of the target Gaussian, in CAM cells."""
    location: float = Field(1.0, ge=0)
    coarse: float = Field(0.5, ge=0)
    """Weight of what is asked of the coarse CAMs, together, for networks that have some."""
    heatmap: float = Field(0.01, ge=0)
    presence: float = Field(0.1, ge=0)
    tag_location: float = Field(1.0, ge=0)
    """Weight of what answers about regions say of a joint's place."""
    tag_mistakes: float = Field(0.02, gt=0, lt=0.5)
    """How many answers are wrong; the smaller, the more they outweigh what the network sees."""
    tag_level: float = Field(0.3, ge=0)
    """Weight of what they say of the map's level in the region."""
    tag_sharpness: Positive = 3.0
    """r of the log-mean-exp over a region: from the mean (small) to the maximum (large)."""
    tag_balance: bool = True
    """Let "yes" and "no" count alike there, however rare one of them is."""
    agreement: float = Field(0.0, ge=0)
    """Weight of coarse and fine CAMs saying the same: the coarse teach in the first third, then the fine."""
    contrast: float = Field(0.0, ge=0)
    """Weight of a joint's feature being nearer to its prototype in the memory than to other joints'."""
    concentration: float = Field(0.0, ge=0)
    """Weight of the variance of a CAM's mass, in squares of the crop's side."""
    equivariance: float = Field(0.0, ge=0)
    """Weight of the CAMs of two views of a person being views of the same; of persons without a location."""
    teacher: float = Field(0.0, ge=0)
    """Weight of the places that the averaged network finds in an easy view of a person without a location."""
    teacher_sure: Fraction = 0.5
    """The part of a CAM's mass that must be around its peak for the teacher to be heard."""
    swap_rate: float = Field(0.0, ge=0, lt=0.5)
    """How many of the labelled persons have left and right exchanged; 0 trusts every label."""
    swap_trust: Positive = 2.0
    """How much a nat of evidence, averaged over the joints, counts against a label's sides."""


class Adaptation(_Section):
    """Make persons of a target domain, unlabelled ones (``data.target``), look to the network like those of
    the source, the located ones; see ``networks/adaptation.py``. Nothing of it is in the exported network."""

    topology: float = Field(0.0, ge=0)
    """Weight of the target's joints being related as the source's are: IHTA."""
    residual: bool = True
    """Let the graph of the joints grow bones beside the skeleton's."""
    places: float = Field(0.1, ge=0)
    """Weight of the graph saying where the source's joints are, which keeps it about bodies."""
    features: float = Field(0.0, ge=0)
    """Weight of nobody being able to tell the domain by a person's features: CAFA."""
    attention: bool = True
    """Judge them with what they gather from a person of the other domain: BSAM."""
    structure: float = Field(0.0, ge=0)
    """Weight of the target's joints looking like those of its located persons (``data.target``): ISA."""
    statistics: Literal["target", "both"] = "target"
    """Whose crops the network's BatchNorm has the mean and variance of. Batches are of one domain each, so
    those of both are of no batch that was ever trained on."""


class Optimizer(_Section):
    batch_size: int = Field(32, ge=1)
    lr_head: Positive = 1e-3
    lr_backbone: Positive = 5e-4
    weight_decay: float = Field(0.02, ge=0)
    warmup_steps: int = Field(300, ge=0)
    clip_norm: Positive = 5.0
    ema_decay: float = Field(0.998, ge=0, lt=1)


class Recipe(_Section):
    """Everything that decides what a training makes."""

    name: str
    skeleton: str
    seed: int = Field(0, ge=0)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    data: Data
    network: Network = Network()
    start_from: Path | None = None
    """A checkpoint of the same network, whose averaged weights this training starts from; or a bundle of it:
    its folder, or the name of a shipped one."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    augment: Augment = Augment()
    loss: Loss = Loss()
    adapt: Adaptation | None = None
    optimizer: Optimizer = Optimizer()

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.skeleton not in SKELETONS:
            message = f"unknown skeleton {self.skeleton!r}; {did_you_mean(self.skeleton, SKELETONS)}"
            raise ValueError(message)
        for data in (*self.data.train, *self.data.target, self.data.val):
            for joint in data.joints.keys() - set(self.joints.keypoints):
                message = (
                    f"{data.annotations} is to give the joint {joint!r}, which {self.skeleton} lacks; "
                    f"{did_you_mean(joint, self.joints.keypoints)}"
                )
                raise ValueError(message)
        located = self.located
        if not located and self.start_from is not None and self.start_from.suffix != ".pt":
            message = (
                f"start_from {str(self.start_from)!r} is a bundle, which may have been trained on locations, "
                "and this recipe uses none: leave it out, or name the checkpoint of such a training"
            )
            raise ValueError(message)
        views = (self.augment, *(stage.augment for stage in self.stages))
        if not located and any(view is not None and view.intruder for view in views):
            message = "augment.intruder needs located persons: data.train"
            raise ValueError(message)
        if self.adapt is not None and not (self.data.source and self.data.target):
            message = "adapt needs two domains: located persons (data.train), and the target's (data.target)"
            raise ValueError(message)
        if self.adapt is not None and self.adapt.structure and not any(t.locations for t in self.data.target):
            message = "adapt.structure needs some located persons of the target: data.target's locations"
            raise ValueError(message)
        remembers = self.network.prototypes is not None and self.network.prototypes.memory
        coarse = self.network.refine or self.network.context is not None
        for wanted, possible, lacking in (
            ("contrast", remembers, "network.prototypes with a memory"),
            ("agreement", coarse, "coarse CAMs: network.context or network.refine"),
            ("teacher", self.data.unlocated, "persons without a location: data.tags or data.target"),
            ("equivariance", self.data.unlocated, "persons without a location: data.tags or data.target"),
        ):
            if getattr(self.loss, wanted) and not possible:
                message = f"loss.{wanted} needs {lacking}"
                raise ValueError(message)
        return self

    @property
    def located(self) -> bool:
        """Whether any location of a joint is trained on."""
        return bool(self.data.source or any(target.locations for target in self.data.target))

    @property
    def two_views(self) -> bool:
        """Whether persons without a location are cropped twice."""
        return bool(self.loss.teacher or self.loss.equivariance)

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the crop that the finished model takes: the last stage's."""
        return self.stages[-1].size

    @property
    def joints(self) -> Skeleton:
        return SKELETONS[self.skeleton]

    def stage_at(self, epoch: int) -> Stage:
        """The stage that an epoch belongs to."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage
            epoch -= stage.epochs
        return self.stages[-1]


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or one shipped with the package by its name.

    Args:
        source: a path, or the name of a file in ``lfpose_edge/train/recipes`` without its suffix.
        overrides: ``section.key=value`` entries, the value in YAML.

    Raises:
        RecipeError: the file is missing or not YAML, or an entry is unknown, missing or contradictory.
    """
    path = _find(source)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"{path}: not a readable recipe: {error}"
        raise RecipeError(message) from error
    if not isinstance(tree, dict):
        message = f"{path}: a recipe is a YAML mapping, got {type(tree).__name__}"
        raise RecipeError(message)
    for override in overrides:
        _apply(tree, override)
    return parse_recipe(tree, where=str(path))


def parse_recipe(tree: object, *, where: str) -> Recipe:
    """Check a recipe that was read already; ``where`` names it in errors."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_keys(first["loc"][:-1])
            message = f"{where}: unknown entry {key!r}; {did_you_mean(str(first['loc'][-1]), known)}"
        else:
            message = f"{where}: {key or 'recipe'}: {first['msg']}"
        raise RecipeError(message) from None


def _find(source: str | Path) -> Path:
    path = Path(source)
    shipped = {p.stem: p for p in (Path(__file__).parent / "recipes").glob("*.yaml")}
    if path.is_file():
        return path
    if str(source) in shipped:
        return shipped[str(source)]
    hint = did_you_mean(str(source), shipped)
    message = f"no recipe {str(source)!r}: neither a file nor a shipped recipe; {hint}"
    raise RecipeError(message)


def _apply(tree: dict[str, object], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        message = f"override {override!r} must look like section.key=value"
        raise RecipeError(message)
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            message = f"override {override!r}: {section!r} is not a section of the recipe"
            raise RecipeError(message)
        node = child
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        message = f"override {override!r}: what follows the = is not YAML"
        raise RecipeError(message) from error


def _known_keys(location: Sequence[int | str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        inner = getattr(annotation, "__args__", (annotation,))[0]
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
