"""All speed benchmarks, one after the other, and what they say as parts of docs/performance.md: ``make bench``.

    python -m benchmarks.performance                    run all and write the document
    python -m benchmarks.performance train_step startup  only these

Each runs in a process of its own; the figures are kept beside the document, in docs/performance/PART.json. What the arithmetic decides has a part
of its own for processors with bf16 and for those without, so that measuring on one leaves the other's.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.documents import put
from celladapt.convolution import bf16_gains
from celladapt.hardware import has_bf16, pick_device

DOCUMENT = Path("docs/performance.md")
Record = dict[str, Any]


def rows(*lines: tuple[str, str]) -> str:
    """A Markdown table of two columns."""
    return "| | |\n|---|--:|\n" + "\n".join(f"| {name} | {value} |" for name, value in lines)


def headline(record: Record) -> str:
    """The ratio with its spread, and what it rests on."""
    low, high = record["quartiles"]
    on = f"{record['device']}, {record['cores']} cores, {record['threads']} threads, torch {record['torch']}"
    return f"**{record['ratio']:.2f}×** (quartiles {low:.2f} to {high:.2f}, {record['turns']} turns): {record['what']}. {on}."


def train_step(r: Record) -> str:
    """The step's ratio, its arithmetic against the machine's, and where the time goes."""
    share = "\n".join(f"| `{one['operator']}` | {100 * one['share']:.0f} % |" for one in r["operators"])
    figures = rows(
        ("plain step", f"{_time(r['slow_seconds'])}, {r['plain_gflops']:.0f} GFLOP/s"),
        *(("plain step without TF32", _time(r[key])) for key in ("plain_without_tf32_seconds",) if key in r),
        ("our step", f"{_time(r['fast_seconds'])}, {r['gflops']:.0f} GFLOP/s"),
        ("matrix products here, at best", f"{r['product_peak_gflops']:.0f} GFLOP/s"),
        ("share of that", f"{100 * r['share_of_peak']:.0f} %"),
        ("images a second", f"{r['images_per_second']:.1f}"),
        *((f"{way} step", _way(one)) for way, one in r.get("ways", {}).items()),
        *((f"`paper` preset on 400 × 400, {way}, projected", _run(one)) for way, one in r.get("paper", {}).items()),
    )
    return f"{headline(r)}\n\n{figures}\n\nWhere our step's time goes:\n\n| operator | share |\n|---|--:|\n{share}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _way(r: Record) -> str:
    """One way of taking the step, alone and in training with images from files."""
    if "failed" in r:
        return f"failed: {r['failed']}"
    low, high = r["quartiles"]
    text = f"{r['ratio']:.2f}× the plain one ({low:.2f} to {high:.2f}), {_time(r['fast_seconds'])}"
    if one := r.get("loop"):
        text += f"; in training {one['images_per_second']:.0f} images/s, {100 * one['share_of_peak']:.0f} % of the best product"
        text += f", GPU idle {100 * one['gpu_idle_share']:.0f} %, first step {one['first_step_seconds']:.0f} s"
    return text


def _run(r: Record) -> str:
    """A whole run, from a few steps and one validation."""
    if "failed" in r:
        return f"failed: {r['failed']}"
    parts = f"{r['steps']} steps of {_time(r['seconds_a_step'])}, {r['validations']} validations of {_time(r['validation_seconds'])}"
    return f"{r['projected_seconds'] / 60:.1f} min ({parts}, first step {r['first_step_seconds']:.0f} s)"


def data_path(r: Record) -> str:
    """Loader against step, by threads; the first pass; the bounded cache."""
    threads = [(f"{n} threads", f"{1000 * s:.1f} ms a batch") for n, s in r["batch_seconds_by_threads"].items()]
    m = r["memory"]
    memory = f"{m['held_mib']:.0f} MiB held of {m['images_mib']:.0f} MiB of images, with a limit of {m['limit_mib']:.0f}"
    step = ("a step needs a batch every", f"{1000 * r['step_seconds']:.0f} ms")
    first = ("first pass, which decodes", f"{1000 * r['first_pass_batch_seconds']:.1f} ms a batch")
    waiting = ("share of a training loop spent waiting for images", f"{100 * r['share_of_training_spent_waiting']:.1f} %")
    return f"{headline(r)}\n\n{rows(step, *threads, first, waiting, ('cache', memory))}"


def predict(r: Record) -> str:
    """Ratios by width, peers, nuclei, and the curve over image sizes."""
    lines = []
    for width, one in r["widths"].items():
        text = f"{one['megapixels_per_second']:.2f} MP/s, {one['ratio']:.2f}× the plain loop ({one['quartiles'][0]:.2f} to {one['quartiles'][1]:.2f})"
        if peer := one.get("over_monai"):
            text += f", {_peer('MONAI', peer)}"
        if peer := one.get("over_instanseg"):
            ours, its = (f"{flop / 1e3:.0f}" for flop in peer["flop_per_pixel"])
            text += f", {_peer('InstanSeg', peer)}, {peer['ratio_per_flop']:.2f}× for the same arithmetic ({ours} kFLOP a pixel against its {its})"
        changed = f"{100 * one['share_of_mask_pixels_changed']:.2f} % of the mask's pixels differ from the whole image in float32"
        lines.append((f"width {width}", f"{text}; {changed} (random weights)"))
    i = r["instances"]
    shares = ", ".join(f"{100 * share:.0f} % of the network's time at width {width}" for width, share in i["over_network"].items())
    lines.append(("nuclei from the map", f"{i['megapixels_per_second']:.2f} MP/s, {i['nuclei']} nuclei; {shares}"))
    curve = "\n".join(
        f"| {c['side']}² | {c['seconds']:.1f} | {c['megapixels_per_second']:.2f} | {c['peak_mib']:.0f} | {c['image_and_answer_mib']:.0f} |"
        for c in r["curve"]
    )
    head = "| image | seconds | MP/s | peak MiB of the process | MiB of image and answer |\n|---|--:|--:|--:|--:|"
    return f"{headline(r)}\n\n{rows(*lines)}\n\nCost over image size, width 16, the probability map alone, each in a process of its own:\n\n{head}\n{curve}"


def _peer(name: str, r: Record) -> str:
    return f"{r['ratio']:.2f}× {name} with windows of {r['window']} ({r['quartiles'][0]:.2f} to {r['quartiles'][1]:.2f})"


def startup(r: Record) -> str:
    """Seconds until each thing is there."""
    names = {
        "help_seconds": "`celladapt --help`",
        "import_celladapt_seconds": "`import celladapt`, Python's own start included",
        "python_seconds": "Python's own start",
        "import_torch_seconds": "`import torch`",
        "predict_one_image_seconds": "`celladapt predict` on one image of 256 × 256",
        "imports_it_cannot_do_without_seconds": "of which imports it cannot do without (torch, scipy, Pillow)",
        "the_network_itself_seconds": "of which the first prediction itself",
    }
    return f"{headline(r)}\n\n{rows(*((words, f'{r[name]:.2f} s') for name, words in names.items()))}"


def scaling(r: Record) -> str:
    """Two processes over one, and the size of the messages."""
    sizes = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in r["gradient_bytes_a_step_at_published_width"].items())
    lines = (
        ("two processes that do not speak to each other, over one", f"{r['two_that_do_not_speak']:.2f}×"),
        ("efficiency of the communication", f"{100 * r['efficiency_of_communication']:.0f} %"),
        ("gradients a step at the published width", sizes),
        ("small messages of batch normalisation a step", str(r["batch_norm_messages_a_step"])),
    )
    return f"{headline(r)}\n\n{rows(*lines)}"


BENCHMARKS: dict[str, Callable[[Record], str]] = {
    "train_step": train_step,
    "data_path": data_path,
    "predict": predict,
    "startup": startup,
    "scaling": scaling,
}
BY_ARITHMETIC = {"train_step", "predict"}


def arithmetic() -> str:
    """What this machine computes with: "gpu", "amx" (tiles of bf16), "bf16" (vectors), or "float32"."""
    device = pick_device("auto")
    if device.type == "cuda":
        return "gpu"
    return "bf16" if bf16_gains() else "amx" if has_bf16(device) else "float32"


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all without any")
    for name in parser.parse_args().names or BENCHMARKS:
        part = f"{name}_{arithmetic()}" if name in BY_ARITHMETIC else name
        file = DOCUMENT.with_suffix("") / f"{part}.json"
        file.parent.mkdir(exist_ok=True)
        print(f"{name} ...", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--json", str(file)], check=True)
        put(DOCUMENT, part, BENCHMARKS[name](json.loads(file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
