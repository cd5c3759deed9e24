"""``lfpose-export``: a checkpoint becomes a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from lfpose_edge.export import require_extra

from lfpose_edge.cli.errors import run_command
from lfpose_edge.errors import CalibrationError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def export(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="A training's last.pt; or a bundle, a shipped model, or an fp32 ONNX file.")
    ],
    out: Annotated[Path, typer.Option(help="The bundle's folder; it must not exist yet.")],
    int8: Annotated[bool, typer.Option("--int8", help="Quantise; needs --calib.")] = False,
    calib: Annotated[
        str | None,
        typer.Option(
            help="Calibration set: coco_subset, lspet_subset, a folder of images, a COCO-keypoints JSON, "
            "or an .npz of crops."
        ),
    ] = None,
    calib_images: Annotated[
        Path | None, typer.Option(help="Folder of the JSON's images; 'images' beside it when not given.")
    ] = None,
    calib_crops: Annotated[int, typer.Option(min=32, help="Most crops for the ranges.")] = 512,
    detector: Annotated[
        str | None,
        typer.Option(help="Finds the people of a folder's images; without one an image is one person."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data sets; $LFPOSE_DATA when not given.")
    ] = None,
    proof: Annotated[
        Path | None,
        typer.Option(
            help="COCO-keypoints JSON of persons to prove the export on, here or below --data; at most 256 "
            "are taken, the same ones everywhere."
        ),
    ] = None,
    proof_images: Annotated[
        Path | None,
        typer.Option(help="Folder of its images, likewise; 'images' beside it when not given."),
    ] = None,
    ranges: Annotated[
        str, typer.Option(help="minmax, percentile, mse, entropy; auto takes the best of them.")
    ] = "auto",
    max_drop: Annotated[
        float,
        typer.Option(min=0, help="PCK points that INT8 or an engine may cost; beyond, nothing is published."),
    ] = 0.5,
    equalise: Annotated[
        bool, typer.Option("--equalise", help="Even out the channels' ranges between layers before INT8.")
    ] = False,
    correct_biases: Annotated[
        bool, typer.Option("--correct-biases", help="Take INT8's mean error from the biases; takes minutes.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Build engines too: tensorrt (for the GPU here), torch-tensorrt (likewise, of a "
            "checkpoint), tensorrt-rtx."
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="With tensorrt-rtx: a GPU to build for, such as SM86; may be repeated."),
    ] = None,
    workspace_mb: Annotated[
        int, typer.Option(min=1, help="Most scratch memory of an engine's layer.")
    ] = 1024,
    dla_core: Annotated[
        int | None,
        typer.Option(min=0, help="Run on this deep-learning accelerator of a Jetson, up to TensorRT 10."),
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File of TensorRT's layer timings, read and updated.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="For an ONNX file: the bundle that has the same joints and input.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="A Markdown file that becomes the bundle's card.md.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name; the source's when not given.")] = None,
    version: Annotated[
        str | None, typer.Option(help="The model's version; the source's, or 1, when not given.")
    ] = None,
) -> None:
    """Turn a model into a bundle: ONNX, INT8 on request, and a manifest with checksums.

    Everything is compared with the source before anything appears. With --int8 or --proof the bundle has a
    report of what each precision costs and wins; a card is the source's or --card's.
    """
    if int8 and calib is None:
        message = (
            "--int8 needs --calib: ranges are seen on real crops, never on random ones; give coco_subset, "
            "lspet_subset, a folder of your own frames, a COCO-keypoints JSON or an .npz"
        )
        raise CalibrationError(message)
    int8_options = ("calib", "calib_crops", "ranges", "equalise", "correct_biases")
    needs = {
        **dict.fromkeys(int8_options, ("--int8", int8)),
        "calib_images": ("a JSON for --calib", calib is not None and calib.endswith(".json")),
        "detector": ("a folder for --calib", calib is not None and Path(calib).is_dir()),
        "proof_images": ("--proof", proof),
        "data": ("the name of a set for --calib, or --proof", proof or (calib and not Path(calib).exists())),
        "max_drop": (
            "--int8, or --proof of a checkpoint or an engine: nothing else is converted",
            int8 or (proof and (engine or source.endswith(".pt"))),
        ),
        "gpu": ("--engine tensorrt-rtx", engine == "tensorrt-rtx"),
        "workspace_mb": ("--engine", engine),
        "dla_core": ("--engine tensorrt", engine == "tensorrt"),
        "timing_cache": ("--engine tensorrt", engine == "tensorrt"),
        "like": ("an ONNX file", source.endswith(".onnx")),
    }
    for option, (other, there) in needs.items():
        given = context.get_parameter_source(option)
        if given is not None and given.name == "COMMANDLINE" and not there:
            message = f"--{option.replace('_', '-')} does nothing without {other}"
            raise CalibrationError(message)
    require_extra()
    from lfpose_edge.export.build import Int8, export_bundle
    from lfpose_edge.export.engines import Engines, engine_kind
    from lfpose_edge.export.ranges import range_method

    from lfpose_edge.backends.tensorrt_api import BuildOptions
    from lfpose_edge.persons import data_root

    root = data_root(data)
    how = None
    if calib is not None:
        how = Int8(
            calib,
            root,
            images=calib_images,
            detector=detector,
            crops=calib_crops,
            method=range_method(ranges),
            equalise=equalise,
            correct_biases=correct_biases,
        )
    engines = None
    if engine is not None:
        options = BuildOptions(workspace_mb=workspace_mb, dla_core=dla_core, timing_cache=timing_cache)
        gpus = tuple(dict.fromkeys(wanted.upper() for wanted in gpu or ()))
        engines = Engines(engine_kind(engine), gpus=gpus, options=options)
    with _steps_shown() as steps:
        bundle = export_bundle(
            source,
            out,
            int8=how,
            proof=_proof(root, proof, proof_images),
            max_drop=max_drop,
            engines=engines,
            card=card,
            name=name,
            version=version,
            like=like,
            show=_show,
            steps=steps,
        )
    for precision, file in bundle.manifest.models.items():
        typer.echo(f"{precision:9} {file}  {bundle.manifest.files[file].bytes / 1e6:.1f} MB")
    for path in sorted(p for p in (out / "engines").glob("*") if p.suffix != ".json"):
        typer.echo(f"engine    engines/{path.name}  {path.stat().st_size / 1e6:.1f} MB")
    typer.echo(f"wrote {out}: {bundle.manifest.name} version {bundle.manifest.version}")
    if how is not None or proof is not None:
        typer.echo(f"report: {out / 'report.md'}")


def _proof(root: Path, annotations: Path | None, images: Path | None) -> tuple[Path, Path] | None:
    """Find the annotation file and images of the proof, before the long work."""
    if annotations is None:
        return None
    path = annotations if annotations.is_file() else root / annotations
    if not path.is_file():
        message = f"no annotation file {annotations} for --proof, neither here nor below {root} (--data)"
        raise CalibrationError(message)
    folder = path.parent / "images"
    if images is not None:
        folder = images if images.is_dir() else root / images
    if not folder.is_dir():
        message = f"no folder {folder} with the images of {path}: say where they are with --proof-images"
        raise CalibrationError(message)
    return path, folder


def _show(items: Iterable[Any], label: str) -> Iterable[Any]:
    from rich.progress import track

    from lfpose_edge.console import plain_console

    console = plain_console(stderr=True)
    if not console.is_terminal:
        typer.echo(label, err=True)
    return track(items, label, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def _steps_shown() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows the progress of engine builds: a bar each in a terminal, else a line."""
    from rich.progress import Progress, TaskID

    from lfpose_edge.console import plain_console

    console = plain_console(stderr=True)
    bars = Progress(console=console, transient=True, disable=not console.is_terminal)
    tasks: dict[str, TaskID] = {}

    def steps(what: str, done: int, total: int) -> None:
        engine = what.partition(":")[0]
        if engine not in tasks:
            bars.start()
            tasks[engine] = bars.add_task(engine)
            if not console.is_terminal:
                typer.echo(engine, err=True)
        bars.update(tasks[engine], description=what, completed=done, total=total)

    try:
        yield steps
    finally:
        bars.stop()


def main() -> None:
    """Entry point of ``lfpose-export``."""
    run_command(app)
