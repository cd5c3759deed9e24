"""The command line ``lfpose``: names, arguments and help; the work is in the modules beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lfpose_edge.cli.errors import run_command
from lfpose_edge.cli.options import (
    Backend,
    Data,
    Detector,
    Device,
    KeepGoing,
    Model,
    Precision,
    RunsOn,
    Threads,
)
from lfpose_edge.cli.people_commands import data_app, tags_app

RECIPES = sorted(path.stem for path in (Path(__file__).parent.parent / "train" / "recipes").glob("*.yaml"))

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
    source: Annotated[
        list[str],
        typer.Argument(help="Image, several of them, folder, glob, video, camera number or stream URL."),
    ],
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
    json: Annotated[
        str | None, typer.Option(help="File for the poses, one JSON line a frame; - is standard output.")
    ] = None,
    track: Annotated[
        bool, typer.Option("--track", help="Number the people from frame to frame, and smooth their joints.")
    ] = False,
    threads: Threads = None,
    keep_going: KeepGoing = False,
) -> None:
    """Find the poses in images or a video."""
    from lfpose_edge.cli.predict import PredictOptions, run_predict

    runs_on, outputs = (model, backend, precision, device), (save, json)
    run_predict(PredictOptions(source, *runs_on, detector, boxes, *outputs, threads, keep_going, track))


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help=f"A recipe file, or the name of a shipped one: {', '.join(RECIPES)}.")
    ],
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
    detector: Detector = "yolox-nano",
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
    backend: Annotated[
        str, typer.Option(help="The only one to time; auto: every one that is installed.")
    ] = "auto",
) -> None:
    """Time the model on every installed backend, end to end and stage by stage."""
    from lfpose_edge.cli.bench import run_bench

    run_bench(model, seconds, threads, device, backend)


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


@models_app.command("list", hidden=True)
def list_models() -> None:
    """As `lfpose models` alone."""
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


app.add_typer(data_app, name="data")
app.add_typer(tags_app, name="tags")


def main() -> None:
    """Entry point of ``lfpose``."""
    run_command(app)
