"""The main job on the embedded data set: what adapting does, in a few minutes, with nothing to download."""

from pathlib import Path

from celladapt.benchmarking import Benchmark, benchmark
from celladapt.data.synthetic import embedded
from celladapt.errors import InputError
from celladapt.files import write_json
from celladapt.progress import say

METHODS = ("source_only", "cellseguda", "weakuda", "cellsegssda@10%", "weakssda@10%", "supervised")


def demo(out: str | Path = "celladapt-demo") -> Benchmark:
    """Render two domains of stained-tissue-like images, run six methods, and write ``results.json`` and ``report.html`` into ``out``.

    ``results.json`` is ``{method: {"iou", "dice", "seconds", ...}}`` on the target's test images. An interrupted demo goes on when called again.
    """
    out = Path(out)
    say("Rendering the embedded images ...")
    source, target = embedded(out / "data")
    done = benchmark([(source, target)], METHODS, out, seeds=1, preset="demo")
    for name, failure in done.failures.items():
        raise (RuntimeError if failure.ours else InputError)(f"{name}: {failure.sentence}")
    (results,) = done.results().values()
    write_json(out / "results.json", {method.partition("@")[0]: scores for method, scores in results.items()})
    return done
