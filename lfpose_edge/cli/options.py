"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
Detector = Annotated[
    str,
    typer.Option(help="ONNX person detector (YOLOX): a path or a name; none: every image is one person."),
]
