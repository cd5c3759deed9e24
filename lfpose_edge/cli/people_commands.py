"""``lfpose data`` and ``lfpose tags``: names, arguments and help; the work is in other modules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lfpose_edge.cli.options import Detector, KeepGoing

data_app = typer.Typer(help="Prepare data sets.", no_args_is_help=True)


@data_app.command("make-subset")
def make_subset(
    annotations: Annotated[Path, typer.Argument(help="COCO-keypoints JSON.")],
    out: Annotated[Path, typer.Option(help="Where the smaller JSON goes.")],
    persons: Annotated[int, typer.Option(min=40, help="Most persons.")] = 512,
    min_joints: Annotated[int, typer.Option(min=0, help="Labelled joints that a person must have.")] = 8,
    min_side: Annotated[
        float, typer.Option(min=0, help="Width and height that a person's box must have, pixels.")
    ] = 96.0,
) -> None:
    """Choose persons for a calibration (lfpose-export --calib OUT --calib-images IMAGES)."""
    from lfpose_edge.export.subsets import make_subset as write_subset

    count = write_subset(annotations, out, persons=persons, min_joints=min_joints, min_side=min_side)
    typer.echo(f"wrote {out}: {count} persons" + (f" of the {persons} asked for" if count < persons else ""))


@data_app.command("people")
def people(
    folder: Annotated[Path, typer.Argument(help="Folder of images, and of folders of them.")],
    out: Annotated[Path, typer.Option(help="Where the COCO JSON goes.")],
    detector: Detector = "yolox-nano",
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
    min_score: Annotated[
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
        min_score=min_score,
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
