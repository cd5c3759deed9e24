"""``lfpose-export``: a checkpoint becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lfpose_edge.cli.errors import run_command
from lfpose_edge.errors import BackendUnavailable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="The last.pt of a training.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder; it must not exist yet.")],
    card: Annotated[
        Path | None, typer.Option(help="A Markdown file that becomes the bundle's card.md.")
    ] = None,
    version: Annotated[str, typer.Option(help="The model's version.")] = "1",
) -> None:
    """Turn a training checkpoint into a bundle: ONNX, manifest and card, checksummed.

    The ONNX file is compared with the network before anything is written.
    """
    try:
        import onnx  # noqa: F401  (asked for here once, so that the hint is one line)
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        message = f"{error.name} is missing: exporting needs the 'export' extra, pip install '.[export]'"
        raise BackendUnavailable(message) from error
    from lfpose_edge.export.build import export_bundle

    bundle = export_bundle(checkpoint, out, card=card, version=version)
    size = bundle.manifest.files["model.onnx"].bytes
    typer.echo(f"{out}: {bundle.manifest.name} version {version}, model.onnx {size / 1e6:.1f} MB")


def main() -> None:
    """Entry point of ``lfpose-export``."""
    run_command(app)
