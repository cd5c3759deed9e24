"""The command line ``lfpose``: names, arguments and help; the work is in the modules beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lfpose_edge.cli.errors import run_command

app = typer.Typer(
    name="lfpose",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from lfpose_edge import __version__

        typer.echo(f"lfpose-edge {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """2D human pose: run, train, measure. Add --verbose to any command for the log and error traces."""


Model = Annotated[str, typer.Option(help="A shipped model's name, or a bundle's folder.")]
Backend = Annotated[
    str, typer.Option(help="auto, tensorrt, tensorrt_rtx, openvino, onnxruntime or torch_tensorrt.")
]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores when not given.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
RunsOn = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N; see `lfpose doctor`.")]
Data = Annotated[Path | None, typer.Option(help="Folder of the data sets; $LFPOSE_DATA when not given.")]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="Leave out what cannot be read or seen, and list it at the end.")
]


@app.command()
def demo(
    model: Model = "lfpose-lite",
    backend: Backend = "auto",
    device: RunsOn = "auto",
    out: Annotated[str, typer.Option(help="Where the overlay is written.")] = "lfpose-demo.jpg",
) -> None:
    """Find the joints of the photo inside the package, print them and write an overlay."""
    from lfpose_edge.cli.predict import run_demo

    run_demo(model, backend, device, out)


@app.command()
def predict(
    source: Annotated[str, typer.Argument(help="Image, folder, glob, video, camera number or stream URL.")],
    model: Model = "lfpose-lite",
    backend: Backend = "auto",
    precision: Precision = "auto",
    device: RunsOn = "auto",
    detector: Annotated[
        str | None,
        typer.Option(
            help="ONNX person detector (YOLOX), a path or a name; without one an image is one person."
        ),
    ] = None,
    boxes: Annotated[
        str | None, typer.Option(help="Person boxes for every frame: x1,y1,x2,y2[;x1,y1,x2,y2...], pixels.")
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(help="Folder for overlays; or an .mp4/.avi file; or an image file for one image."),
    ] = None,
    json: Annotated[str | None, typer.Option(help="File for the poses, one JSON line a frame.")] = None,
    threads: Threads = None,
    keep_going: KeepGoing = False,
) -> None:
    """Find the poses in images or a video."""
    from lfpose_edge.cli.predict import PredictOptions, run_predict

    runs_on, outputs = (model, backend, precision, device), (save, json)
    run_predict(PredictOptions(source, *runs_on, detector, boxes, *outputs, threads, keep_going))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value changes to the recipe.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the checkpoint; runs/NAME when not given.")
    ] = None,
    data: Data = None,
    device: Device = "auto",
    validate_every: Annotated[int, typer.Option(min=1, help="Epochs between validations.")] = 5,
) -> None:
    """Train a model; the same command goes on where a stopped run ended."""
    from lfpose_edge.cli.training import run_train

    run_train(recipe, overrides or [], out, data, device, validate_every)


@app.command()
def adapt(
    model: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="The last.pt of a training with locations.")
    ],
    frames: Annotated[Path, typer.Argument(help="Folder of images of the new camera, unlabelled.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the bundle is OUT/bundle, if it passes.")],
    detector: Annotated[
        str,
        typer.Option(help="ONNX person detector (YOLOX): a path or a name; none: every image is one person."),
    ] = "yolox-nano",
    boxes: Annotated[
        Path | None, typer.Option(help="COCO JSON of the people's boxes, in a detector's place.")
    ] = None,
    data: Data = None,
    epochs: Annotated[int, typer.Option(min=1, help="Over the source's and the new people.")] = 6,
    device: Device = "auto",
    any_way_up: Annotated[
        bool,
        typer.Option("--any-way-up", help="The new people may be lying or upside down: look in four turns."),
    ] = False,
    keep_going: KeepGoing = False,
) -> None:
    """Adapt a model to a camera whose people nobody has labelled; the source's data are needed too."""
    from lfpose_edge.cli.adapting import run_adapt

    people = (frames, out, detector, boxes)
    run_adapt(model, *people, data, epochs, device, keep_going=keep_going, any_way_up=any_way_up)


@app.command("eval")
def evaluate(
    annotations: Annotated[Path, typer.Argument(help="COCO-keypoints JSON, relative to --data.")],
    images: Annotated[Path, typer.Argument(help="Folder of its images, relative to --data.")],
    model: Annotated[
        str, typer.Option(help="A shipped model, a bundle's folder, or a checkpoint (.pt).")
    ] = "lfpose-lite",
    backend: Backend = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    data: Data = None,
    json: Annotated[Path | None, typer.Option(help="File for the result.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for a page with curves, maps and the worst cases.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="An earlier --json on the same persons: how sure is the difference?")
    ] = None,
    joint: Annotated[
        list[str] | None,
        typer.Option(help="A joint that the file calls otherwise: neck=thorax; may be repeated."),
    ] = None,
    mpii_truth: Annotated[
        Path | None, typer.Option(help="MPII's gt_valid.mat, relative to --data, for PCKh.")
    ] = None,
) -> None:
    """Measure accuracy on located persons, in their own boxes: PCK and OKS AP, and MPII's PCKh."""
    from lfpose_edge.cli.evaluate import run_eval

    persons, runs_on = (annotations, images), (model, backend, precision, device)
    run_eval(*persons, *runs_on, data, json, report, against, joint or (), mpii_truth)


@app.command()
def bench(
    model: Model = "lfpose-lite",
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Time for each backend and batch size.")
    ] = 3.0,
    threads: Threads = None,
    device: RunsOn = "auto",
) -> None:
    """Time the model on every installed backend, end to end and stage by stage."""
    from lfpose_edge.cli.bench import run_bench

    run_bench(model, seconds, threads, device)


@app.command()
def doctor() -> None:
    """Say what this machine can run, and what is missing for the rest."""
    from lfpose_edge.cli.doctor import run_doctor

    run_doctor()


models_app = typer.Typer(help="List the shipped models and detectors; inspect a model.")
app.add_typer(models_app, name="models")


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List the shipped models and the detectors that can be fetched."""
    if context.invoked_subcommand is None:
        from lfpose_edge.cli.doctor import run_models

        run_models()


@models_app.command("inspect")
def inspect(
    model: Annotated[
        str, typer.Argument(help="A shipped model's name, or a bundle's folder.")
    ] = "lfpose-lite",
) -> None:
    """Check a model's files and say what it is: joints, input, decode, precisions, where it comes from."""
    from lfpose_edge.cli.doctor import run_inspect

    run_inspect(model)


data_app = typer.Typer(help="Prepare data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("make-subset")
def make_subset(
    annotations: Annotated[Path, typer.Argument(help="COCO-keypoints JSON.")],
    out: Annotated[Path, typer.Option(help="Where the smaller JSON goes.")],
    persons: Annotated[int, typer.Option(min=40, help="Most persons.")] = 512,
    least_joints: Annotated[int, typer.Option(min=0, help="Labelled joints that a person must have.")] = 8,
    least_side: Annotated[
        float, typer.Option(min=0, help="Width and height that a person's box must have, pixels.")
    ] = 96.0,
) -> None:
    """Choose persons for a calibration (lfpose-export --calib OUT --calib-images IMAGES)."""
    from lfpose_edge.export.subsets import make_subset as write_subset

    count = write_subset(annotations, out, persons=persons, least_joints=least_joints, least_side=least_side)
    typer.echo(f"wrote {out}: {count} persons" + (f" of the {persons} asked for" if count < persons else ""))


@data_app.command("people")
def people(
    folder: Annotated[Path, typer.Argument(help="Folder of images, and of folders of them.")],
    out: Annotated[Path, typer.Option(help="Where the COCO JSON goes.")],
    detector: Annotated[
        str,
        typer.Option(help="ONNX person detector (YOLOX): a path or a name; none: every image is one person."),
    ] = "yolox-nano",
    keep_going: KeepGoing = False,
) -> None:
    """Find the people in a folder of images: boxes, which `lfpose tags make` and `label` begin with."""
    from lfpose_edge.cli.people import run_people

    run_people(folder, out, detector, keep_going=keep_going)


@data_app.command("label")
def label(
    annotations: Annotated[Path, typer.Argument(help="COCO JSON with person boxes.")],
    images: Annotated[Path, typer.Argument(help="Folder of its images.")],
    teacher: Annotated[
        str, typer.Option(help="Who labels: a shipped model, a bundle's folder, or a MoveNet (.tflite).")
    ],
    out: Annotated[Path, typer.Option(help="Where the COCO-keypoints JSON goes.")],
    least_score: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Joints with a smaller score stay without a location: the mean over all looks of the scores "
            "of those that agree.",
        ),
    ] = 0.3,
    upright: Annotated[
        bool, typer.Option("--upright", help="Look at the picture as it is only, not turned by quarters too.")
    ] = False,
    grow: Annotated[
        list[float] | None,
        typer.Option(
            min=0.5,
            max=3,
            help="Size of the box the teacher sees, over the person's; repeat it for more votes.",
            show_default="0.9 1 1.15 1.3",
        ),
    ] = None,
    mirror: Annotated[bool, typer.Option(help="Show it the mirrored picture too, for as many votes.")] = True,
    keep_going: KeepGoing = False,
) -> None:
    """Label unlabelled persons by another model, to train on (unlabelled: unknown in the recipe)."""
    from lfpose_edge.cli.labelling import run_label

    run_label(
        annotations,
        images,
        teacher,
        out,
        least_score=least_score,
        upright=upright,
        grows=grow,
        mirrored=mirror,
        keep_going=keep_going,
    )


@data_app.command("crowd")
def crowd(
    annotations: Annotated[Path, typer.Argument(help="COCO-keypoints JSON of people who are alone.")],
    images: Annotated[Path, typer.Argument(help="Folder of its images.")],
    out: Annotated[Path, typer.Option(help="Folder of easy.json, medium.json, hard.json and images.")],
    skeleton: Annotated[str, typer.Option(help="Joint set: lsp14, coco17, ...")] = "lsp14",
    seed: Annotated[int, typer.Option(min=0, help="Decides who comes, and where they stand.")] = 0,
) -> None:
    """Make crowds, in three degrees, of people who were photographed alone."""
    from lfpose_edge.cli.labelling import run_crowd

    run_crowd(annotations, images, out, skeleton, seed)


@data_app.command("lspet")
def lspet(
    folder: Annotated[
        Path, typer.Argument(help="Leeds Sports Pose Extended as published: joints.mat and images.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where train.json, val.json and test.json go; FOLDER when not given.")
    ] = None,
) -> None:
    """Make train.json, val.json and test.json of Leeds Sports Pose Extended as it is published."""
    from lfpose_edge.cli.labelling import run_lspet

    run_lspet(folder, out)


tags_app = typer.Typer(help="Questions about which joints can be seen, and answers.", no_args_is_help=True)
app.add_typer(tags_app, name="tags")
SkeletonName = Annotated[str, typer.Option(help="Joint set that is asked about: lsp14, coco17, ...")]
Sheet = Annotated[Path, typer.Option(help="Where the sheet goes: .csv for spreadsheets, or .json.")]


@tags_app.command("make")
def make_tags(
    annotations: Annotated[Path, typer.Argument(help="COCO JSON with person boxes; joints are not read.")],
    images: Annotated[Path, typer.Argument(help="Folder of its images.")],
    out: Sheet,
    skeleton: SkeletonName = "lsp14",
    regions: Annotated[
        int,
        typer.Option(min=1, help="Regions of each person: its box, which alone places nothing, then tiles."),
    ] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the tiles.")] = 0,
) -> None:
    """Write a question sheet: which joints can be seen in each region? Annotators answer yes or no."""
    from lfpose_edge.cli.tagging import run_make

    run_make(annotations, images, out, skeleton, regions, seed)


@tags_app.command("page")
def page_of_tags(
    sheet: Annotated[Path, typer.Argument(help="A question sheet.")],
    images: Annotated[Path, typer.Argument(help="Folder of its images.")],
    out: Annotated[
        Path, typer.Option(help="Where the page goes, an .html file; it finds the images from there.")
    ],
    skeleton: SkeletonName = "lsp14",
) -> None:
    """Write a page on which people answer a sheet in their browser, without a server."""
    from lfpose_edge.cli.tagging import run_page

    run_page(sheet, images, out, skeleton)


@tags_app.command("simulate")
def simulate_tags(
    sheet: Annotated[Path, typer.Argument(help="A question sheet.")],
    annotations: Annotated[Path, typer.Argument(help="COCO-keypoints JSON that has located the persons.")],
    images: Annotated[Path, typer.Argument(help="Folder of its images.")],
    out: Sheet,
    mistakes: Annotated[
        float, typer.Option(min=0, max=0.5, help="The part of the answers that are wrong, 0.05 for 5 %.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the mistakes.")] = 0,
    skeleton: SkeletonName = "lsp14",
) -> None:
    """Answer a question sheet from located joints: for research on what tags are worth."""
    from lfpose_edge.cli.tagging import run_simulate

    run_simulate(sheet, annotations, images, out, mistakes, seed, skeleton)


def main() -> None:
    """Entry point of ``lfpose``."""
    run_command(app)
