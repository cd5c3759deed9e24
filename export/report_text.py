"""The report of an export as Markdown."""

from __future__ import annotations

from typing import Any


def _engine_line(engine: dict[str, Any]) -> str:
    ran = "judged above" if engine["ran"] else "not run, as torch sees no such GPU here"
    return f"- {engine['engine']}: `engines/{engine['file']}`, {engine['megabytes']:.1f} MB, {ran}"


_INT8_TRT = (
    " Where no engine is named it is ONNX Runtime; `int8-trt` is the file that TensorRT takes. Without VNNI, "
    "OpenVINO's sums overflow."
)


def _ranges(calibration: dict[str, Any]) -> str:
    return (
        f"Ranges: {calibration['ranges']}, from {calibration['crops']} crops of `{calibration['set']}` "
        f"(asked for {calibration['asked']}){_adjusted(calibration)}. "
    )


def _adjusted(calibration: dict[str, Any]) -> str:
    pairs = calibration["equalised_pairs"]
    done = [f"{pairs} pairs of layers equalised"] * (pairs is not None)
    done += ["biases corrected"] * calibration["biases_corrected"]
    return "".join(f"; {what}" for what in done)


def markdown(tree: dict[str, Any], pictures: list[tuple[str, str]]) -> str:
    """The text of ``report.md``: the report's tree as tables, and its pictures (file name, caption)."""
    held_out, int8 = tree["held_out"], "calibration" in tree
    what = "labelled persons" if held_out["labelled"] else "unlabelled crops, against fp32"
    apart = " that no range was made from" * int8
    lines = [
        f"# {tree['model']} {tree['version']}: what {'INT8' if int8 else 'the export'} costs and wins",
        "",
        f"{_ranges(tree['calibration']) if int8 else ''}Accuracy: PCK@0.1 of the box on {held_out['crops']} "
        f"{what}{apart}; one joint is {held_out['points_a_joint']:.2f} points. In brackets, where the drop "
        f"would be in 95 of 100 draws of other persons.{_INT8_TRT if int8 else ''}",
        "",
        "| precision | file | MB | PCK | drop | presence, drop | joints move, median % of box | 95 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['precision']} | {row['file']} | {row['megabytes']:.2f} | {row['pck_points']:.2f} | "
        f"{row['drop_points']:+.2f} [{row['drop_low']:+.2f}, {row['drop_high']:+.2f}] | "
        f"{row['presence_drop_points']:+.2f} | {row['moved_median_percent']:.2f} | "
        f"{row['moved_p95_percent']:.2f} |"
        for row in tree["precisions"]
    ]
    if held_out["asked"] > 1:
        lines += [
            "",
            f"The held-out crops were asked {held_out['asked']} times, with more layers in float every time, "
            "until the drop was small enough: what is said of them is a little too good.",
        ]
    if tree["parity_pixels"]:
        lines += [
            "",
            f"How far the joints of the {held_out['crops']} crops move at each step, pixels of the image:",
            "",
            "| step | median | 95 % | most |",
            "|---|---|---|---|",
        ]
    lines += [
        f"| {step} | {far['median']:.3f} | {far['p95']:.3f} | {far['most']:.2f} |"
        for step, far in tree["parity_pixels"].items()
    ]
    cpu, turns = tree["machine"]["cpu"], "fp32 and INT8 taking" if int8 else "in"
    lines += [
        "",
        f"One crop, the network alone, {turns} turns of fifty calls on {cpu}:",
        "",
        f"| engine | threads | precision | p50 ms | p95 ms |{' times as fast as fp32 |' * int8}",
        f"|---|---|---|---|---|{'---|' * int8}",
    ]
    lines += [
        f"| {row['engine']} | {row['threads']} | {row['precision']} | {row['p50_ms']:.2f} | "
        f"{row['p95_ms']:.2f} |" + f" {row['speedup']:.2f} |" * int8
        for row in tree["latency"]
    ]
    if tree["engine_latency"]:
        first = tree["engine_latency"][0]["engine"]
        lines += [
            "",
            "The same on the GPU, from the host's memory to the host's, the engines taking turns:",
            "",
            f"| engine | p50 ms | p95 ms | times as fast as {first} |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {row['engine']} | {row['p50_ms']:.2f} | {row['p95_ms']:.2f} | {row['speedup']:.2f} |"
            for row in tree["engine_latency"]
        ]
    lines += ["", *(_engine_line(engine) for engine in tree["engines"])]
    lines += [""]
    for style, layers in tree.get("in_float", {}).items():
        lines += [f"Layers in float of `int8-{style}`: {', '.join(f'`{layer}`' for layer in layers)}.", ""]
    for name, caption in pictures:
        lines += [f"![{caption}]({name})", ""]
    return "\n".join(lines)
