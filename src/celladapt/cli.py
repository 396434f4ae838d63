"""The command line: words to functions. Results go to stdout, everything else to stderr; exit codes are those of ``celladapt.exits``."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.argument import ArgumentCollection

from celladapt import __version__
from celladapt.config import Config
from celladapt.errors import InputError
from celladapt.exits import exit_code
from celladapt.shell import as_typed

# Idle OpenMP threads that spin halve the speed of a machine on which anything else runs; torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = App(
    name="celladapt",
    version=__version__,
    help="Segment cells in images that nobody has annotated, by adapting a model from images that somebody has.",
    help_format="markdown",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
data = App(name="data", help="Look at data folders; get public data sets.")
app.command(data)

Options = Annotated[Config, Parameter(name="*")]
GridOptions = Annotated[Config, Parameter(name="*", show_default=False)]  # the defaults are the preset's, which is another one
given: set[str] = set()
"""Names of the options that the command line set; the preset gives the others."""


_AT_HOME = re.compile(r"^(?P<option>--[\w-]+=)?~(?=[/\\]|$)")
"""What a shell leaves as it is within quotes and after ``=``: made as it is, a folder called ~ is somebody's whole home to ``rm``."""


def _remember(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    given.clear()
    given.update(a.name.removeprefix("--").removeprefix("no-").replace("-", "_") for a in arguments if a.has_tokens)


app.config = (_remember,)


def _chosen(config: Config, *without: str) -> dict[str, Any]:
    """The fields of ``config`` that the command line set."""
    options = {name: getattr(config, name) for name in Config.__dataclass_fields__ if name in given}
    for name in without:
        if name in options:
            raise InputError(f"--{name.replace('_', '-')} does not go with this command; leave it out.")
    return options


def _print(*things: object) -> None:
    from rich.console import Console

    if os.environ.get("RANK", "0") != "0":  # one of several processes speaks for all
        return
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    if not console.is_terminal:
        console.width = 160  # a table in a pipe or file is not squeezed
    for thing in things:
        console.print(thing, markup=False) if isinstance(thing, str) else console.print(thing)


def _predict_with(model: Path) -> str:
    return f"next    {as_typed('celladapt', 'predict', model)} IMAGES --out MASKS"


@app.command
def adapt(*, config: Options = Config(), preset: str = "default", out: Path | None = None, resume: Path | None = None) -> None:
    """Train a model for the target folder from the annotated source folder; evaluate it and write a report.

    Parameters
    ----------
    preset
        Set of options: default (one GPU), best (the same, each choice that held up best written out), fast (two CPU cores, some minutes), paper (the published recipe), kirc_to_tnbc and tnbc_to_kirc (the paper's
        experiments, with their folders), or a TOML file. Other options override it.
    out
        Run folder to make; runs/SOURCE-to-TARGET-METHOD by default.
    resume
        Run folder to continue where it stopped; takes no other option.
    """
    from celladapt import adaptation
    from celladapt.parallel import rank

    options = _chosen(config)
    if resume is not None:
        if options or given & {"preset", "out"}:
            raise InputError("--resume continues a run with the options it began with; leave the other options out.")
        run = adaptation.resume(resume)
    else:
        run = adaptation.adapt(preset=preset, out=out, **options)
    if rank():  # of several processes the first one tells
        return
    expected, fell_back = run.expected, run.record.get("fell_back")
    if run.metrics:
        from celladapt.benchmarking import scores_table

        _print(scores_table(run))
    else:
        _print("scores  none: the target has no annotated test images")
    if expected:
        _print(f"quality {expected.words}" + ("; the source-only model looked clearly better and was kept" if fell_back else ""))
    _print(f"model   {run.path}", f"report  {run.report}", _predict_with(run.path))


@app.command
def predict(
    model: Path,
    *inputs: str,
    out: Path,
    save: str = "mask,instances",
    at: float | None = None,
    pixel_size: float | None = None,
    tissue: bool = True,
    threshold: float = 0.5,
    min_size: str = "20",
    tile: int = 2048,
    max_megapixels: float = Config.max_megapixels,
    overwrite: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "float32", "bf16"] = "auto",
) -> None:
    """Segment images, whole slides, folders and globs with a trained model. Called again, it goes on where it stopped.

    Writes into the output folder, as --save says: NAME_mask.png (0/255; of a slide a pyramidal .tif), NAME_instances.tif (nuclei numbered from 1),
    NAME_probability.tif (0 to 1; of a slide 0 to 255), NAME_nuclei.geojson (QuPath detections), NAME_nuclei.csv or .parquet (a row for each nucleus), NAME_overlay.png (to look at), NAME_nuclei.ome.zarr (labels).
    Beside them predictions.csv has a row for each image, with how its masks were made. The expected IoU that is printed is judged on at most eight images, the middle 512 x 512 pixels of each, for masks cut at a probability of 0.5.

    Parameters
    ----------
    model
        Run folder of `celladapt adapt`, a model.safetensors from one, or a .onnx file of `celladapt export`.
    inputs
        Images, slides (SVS, NDPI, MRXS, pyramidal or OME-TIFF, OME-Zarr ...), folders of them, or quoted globs.
    out
        Folder for the outputs.
    save
        What to write, separated by commas: mask, instances, probability, geojson, table, parquet, overlay, zarr.
    at
        µm per pixel at which slides are segmented; by default that of the model's training images.
    pixel_size
        µm per pixel of the inputs at full resolution, for files that do not say it or say it wrong.
    tissue
        Leave out the glass around the tissue of a slide.
    threshold
        Probability from which a pixel is nucleus.
    min_size
        Smallest nucleus, in px² of what is segmented, or with a unit: 5um2. It acts on nuclei, not on the binary mask.
    tile
        Side in pixels of the tiles in which slides are segmented; smaller ones need less memory and more time.
    max_megapixels
        Largest image that is read whole, in millions of pixels; 1,000 need about 50 GB of memory. Slides and pyramidal TIFFs are read in parts, whatever their size.
    overwrite
        Make existing outputs anew: all that there are of an image, unless the rest is of the same model and settings.
    workers
        Processes on this machine that share the files (needs dask).
    scheduler
        Address of a Dask scheduler, for example tcp://host:8786, whose workers do the work.
    device
        auto, cpu or cuda.
    precision
        auto (bf16 where the hardware has it), float32 or bf16.
    """
    from dataclasses import asdict

    from celladapt import expectation, prediction, provenance
    from celladapt.data.limits import at_most
    from celladapt.loading import loaded_model

    if not inputs:
        raise InputError("Name at least one image, slide, folder or glob to predict.")
    settings = {"threshold": threshold, "min_size": min_size, "pixel_size": pixel_size, "at": at, "tissue": tissue, "tile": tile}
    settings["max_megapixels"] = max_megapixels
    failure: prediction.SomeFailed | None = None
    try:
        done = prediction.predict(model, inputs, out, save, overwrite, workers, scheduler, device, precision, **settings)
    except prediction.SomeFailed as error:
        done, failure = error.done, error
    try:
        for written in done:
            _print(written.words)
        if done:
            loaded = loaded_model(model, device, precision)
            with at_most(max_megapixels):
                expected = expectation.expected_quality(loaded, [written.image for written in done], pixel_size, at)
            _print(expected.words + (", for masks cut at a probability of 0.5" if expected.told and threshold != 0.5 else ""))
            provenance.add(out, expected=asdict(expected) if expected.told else None)
    finally:
        if failure is not None:
            raise failure


@app.command
def evaluate(
    predictions: Path,
    masks: Path,
    *,
    group: str | None = None,
    json: Path | None = None,
    csv: Path | None = None,
    max_megapixels: float = Config.max_megapixels,
) -> None:
    """Compare predictions with annotated masks: IoU, Dice, AJI, PQ and detection F1 for each image, mean and spread.

    Parameters
    ----------
    predictions
        Folder that `celladapt predict` wrote, or of label images with the masks' names.
    masks
        Folder of masks, or a domain folder with masks/.
    group
        Regular expression that tells patients or slides apart in the masks' names, over which the interval of the mean is taken; by default dataset.toml's.
    json
        File for the scores as JSON: {"mean": {...}, "sd": {...}, "interval": {...}, "images": {name: {...}}}.
    csv
        File for the scores of each image as CSV.
    max_megapixels
        Largest image that is read, in millions of pixels.
    """
    from celladapt import evaluation
    from celladapt.data.limits import at_most
    from celladapt.files import write_json

    with at_most(max_megapixels):
        result = evaluation.evaluate(predictions, masks, group)
    _print(result.table())  # first, so that a disk that is full loses no score
    if json is not None:
        write_json(json, result.to_json())
    if csv is not None:
        result.write_csv(csv)


@app.command
def review(
    model: Path,
    *inputs: str,
    out: Path,
    at: float | None = None,
    pixel_size: float | None = None,
    max_megapixels: float = Config.max_megapixels,
    overwrite: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "float32", "bf16"] = "auto",
) -> None:
    """Say of each image what IoU to expect, without a mask, the lowest first: which masks to look at before using them.

    Writes review.csv, and lowest.png with the outlines of what the model takes for nuclei. Of an image larger than 512 x 512 pixels the middle is judged, of a
    slide the densest tissue. Images in which nothing is found are among the lowest: whether nothing is there only a look can tell.

    Parameters
    ----------
    model
        Run folder of `celladapt adapt`, a model.safetensors from one, or a .onnx file of `celladapt export`.
    inputs
        Images, slides, folders of them, or quoted globs.
    out
        Folder for the table and the picture.
    at
        µm per pixel at which slides are seen; by default that of the model's training images.
    pixel_size
        µm per pixel of slides at full resolution, for files that do not say it or say it wrong.
    max_megapixels
        Largest image that is read, in millions of pixels.
    overwrite
        Replace an earlier review.
    device
        auto, cpu or cuda.
    precision
        auto (bf16 where the hardware has it), float32 or bf16.
    """
    from celladapt import reviewing
    from celladapt.data.limits import at_most
    from celladapt.loading import loaded_model

    if not inputs:
        raise InputError("Name at least one image, slide, folder or glob to review.")
    failure: reviewing.SomeUnread | None = None
    with at_most(max_megapixels):
        try:
            done = reviewing.review(loaded_model(model, device, precision), inputs, out, pixel_size, at, overwrite)
        except reviewing.SomeUnread as error:
            done, failure = error.done, error
    _print(done.table(), done.words, f"look    {out / reviewing.PICTURE}", f"table   {out / reviewing.TABLE}")
    if failure is not None:
        raise failure


@app.command
def suggest(
    *,
    model: Path,
    target: Path,
    k: Annotated[int, Parameter(name="-k")] = 5,
    out: Path,
    tile: int = 512,
    max_megapixels: float = Config.max_megapixels,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Choose what to annotate first: typical and different images of the target, or tiles of large ones, of which the model is unsure.

    Writes images/, masks/ with an empty label image for each, to be filled, suggestions.csv and overview.png. Images that have a mask are covered already.

    Parameters
    ----------
    model
        Run folder of `celladapt adapt`, or a model.safetensors from one. Of a run on the same target only training images are suggested.
    target
        Domain folder with the images to choose from.
    k
        How many to suggest; all, where there are no more.
    out
        Folder to make.
    tile
        Side in pixels of the tiles into which larger images are cut; one less than half as long again stays whole.
    max_megapixels
        Largest image that is read, in millions of pixels.
    device
        auto, cpu or cuda.
    """
    from celladapt import suggestion
    from celladapt.data.limits import at_most

    with at_most(max_megapixels):
        done = suggestion.suggest(model, target, out, k, tile, device)
    _print(done.table(), f"look    {out / 'overview.png'}", *done.next_steps)


@app.command
def export(
    model: Path,
    *,
    to: Literal["onnx", "bioimageio"],
    out: Path,
    license: str | None = None,
    author: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    overwrite: bool = False,
) -> None:
    """Write a trained model for other programs: as one ONNX file, or as a package of the BioImage Model Zoo, tested by bioimageio.core.

    Needs the extra: pip install ".[export]" where celladapt was installed from. No image, path or image's name of yours goes into it, but the two folders' names do.

    Parameters
    ----------
    model
        Run folder of `celladapt adapt`, or a model.safetensors from one.
    to
        onnx (a .onnx file, which `celladapt predict` takes too) or bioimageio (a .zip file).
    out
        File to make.
    license
        SPDX identifier of the model's licence, such as CC-BY-4.0, for bioimageio. There is no default: it is yours to give, as far as the training images allow.
    author
        Name of who made the model, for bioimageio; give it once for each.
    overwrite
        Replace an existing file.
    """
    from celladapt import exporting

    _print(f"written {exporting.export(model, to, out, license, author, overwrite)}")
    if to == "onnx":
        _print(_predict_with(out))
    elif license is None or not author:
        _print("note    without --license and --author nobody may publish or reuse it")


@app.command(name="import")
def import_(
    weights: Path,
    *,
    out: Path,
    mean: str | None = None,
    std: str | None = None,
    normalise_by: Path | None = None,
    pixel_size: float | None = None,
    overwrite: bool = False,
) -> None:
    """Make a model of weights of the paper's U-Net that another program saved with torch (.pt, .pth), for `celladapt predict`.

    Such a file is a pickle, which could run code. It is opened with torch's weights-only loader and in no other way: what holds more than weights is refused.

    Parameters
    ----------
    weights
        File with a state dict of the network, by itself or inside a training checkpoint.
    out
        File to make, ending in .safetensors.
    mean
        R,G,B by which its training images were normalised, on the scale 0 to 1.
    std
        Standard deviations likewise.
    normalise_by
        A folder of its training images instead, whose mean and standard deviation are taken.
    pixel_size
        µm per pixel of its training images, so that slides are seen at the same.
    overwrite
        Replace an existing file.
    """
    from celladapt import importing

    made = importing.import_weights(weights, out, _numbers("--mean", mean), _numbers("--std", std), normalise_by, pixel_size, overwrite)
    _print(f"written {made}", _predict_with(made))


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(value) for value in text.split(",")]
    except ValueError:
        raise InputError(f"{option} is '{text}'; give three numbers separated by commas, as 0.7,0.5,0.6.") from None


@app.command
def report(run: Path) -> None:
    """Write report.html of a run folder (or of a benchmark's) again and print its path.

    Parameters
    ----------
    run
        Run folder.
    """
    from celladapt import reporting

    _print(str(reporting.report(run)))


@app.command
def benchmark(
    *,
    pairs: str,
    methods: str = "source_only,cellseguda,weakuda,weakssda@10%,supervised",
    out: Path,
    seeds: int = 3,
    preset: str = "fast",
    jobs: int | None = None,
    config: GridOptions = Config(),
) -> None:
    """Run methods x domain pairs x seeds on one split and one budget, and print the table. Called again, it goes on where it stopped.

    A classical segmentation that learns nothing stands beside the methods. Each method is shown as it is: none falls back to source-only unless --fallback is given. A run that fails leaves the others alone. The options of a run below hold for
    every run, their defaults are the preset's; --source, --target, --method, --seed and --baseline do not go with a benchmark, which sets them.

    Parameters
    ----------
    pairs
        SOURCE:TARGET folders, separated by commas.
    methods
        Methods, separated by commas; NAME@10% hides labels (@25% alone: the method before it, other labels), NAME:option=value sets an option.
    out
        Folder to make, or to continue.
    seeds
        How many seeds.
    preset
        Set of options: default, best, fast, paper, kirc_to_tnbc, tnbc_to_kirc, or a TOML file. Other options override it.
    jobs
        How many runs to train at a time; by default one for each GPU, or else for each CPU core and 4 GiB of memory. The last digits of a score can depend on it.
    """
    from celladapt import benchmarking

    side = r"\s*((?:[A-Za-z]:[\\/])?[^:]*)"  # the colon of a Windows drive is not the one between the two
    folders = []
    for pair in pairs.split(","):
        found = re.fullmatch(f"{side}:{side}", pair.strip())
        if not found:
            raise InputError(f"--pairs {pairs}: write SOURCE:TARGET, several separated by commas.")
        folders.append((Path(found[1].strip()), Path(found[2].strip())))
    options = _chosen(config, "source", "target", "method", "seed", "baseline")
    chosen = benchmarking.parse_methods(methods)
    done = benchmarking.benchmark(folders, chosen, out, seeds, preset, jobs, **options)
    _print(done.table(), f"report  {out / 'report.html'}")
    if failures := done.failures:
        told = "\n".join(f"  {name}: {failure.sentence}" for name, failure in failures.items())
        anew = f"where the data have changed, or it fails again, delete the folder of its run in {out} first"
        sentence = f"{len(failures)} of {len(done.cells)} runs failed; the same command tries them again ({anew}):\n{told}"
        raise RuntimeError(sentence) if any(failure.ours for failure in failures.values()) else InputError(sentence)


@app.command
def demo(*, out: Path = Path("celladapt-demo")) -> None:
    """Adapt on embedded tissue images with six methods and print the table; nothing to download.

    Parameters
    ----------
    out
        Folder to make, or to continue.
    """
    from celladapt import demonstration

    _print(demonstration.demo(out).table(), f"report  {out / 'report.html'}")


@app.command
def methods() -> None:
    """List the methods, what each minimises, and its own options."""
    from celladapt import methods as known

    for name in known.names():
        _print(known.describe(name))


@data.command
def check(*folders: Path, max_megapixels: float = Config.max_megapixels) -> None:
    """Print what data folders hold, and every fault in them at once: unreadable files, masks without image, sizes that differ, duplicates ...

    Parameters
    ----------
    folders
        Domain folders; duplicates are looked for across all of them.
    max_megapixels
        Largest image that is read, in millions of pixels.
    """
    from celladapt.data import check as checking
    from celladapt.data.limits import at_most

    if not folders:
        raise InputError("Name at least one folder to check.")
    with at_most(max_megapixels):
        found = checking.check(folders)
    _print(found)
    if not found.ok:
        raise InputError("The data have faults, listed above; mend them and check again.")


@data.command(name="list")
def list_public(name: str | None = None) -> None:
    """List the public data sets: what they are, how large, their licence and how to get them; with a name, everything about that one.

    Parameters
    ----------
    name
        Data set, for its citation, addresses and checksums.
    """
    from celladapt.data import public

    _print(public.overview() if name is None else public.describe(name))


@data.command
def fetch(name: str, *, out: Path | None = None) -> None:
    """Download a public data set, verify it, and convert it into domain folders.

    Downloads are kept in $CELLADAPT_DATA, or the system's cache folder; one that was cut short goes on where it stopped.

    Parameters
    ----------
    name
        Data set; `celladapt data list` names them.
    out
        Folder to make; data/NAME by default.
    """
    from celladapt.data import public

    _print(*map(str, public.fetch(name, out)))


@data.command
def convert(name: str, src: Path, dst: Path) -> None:
    """Turn a downloaded copy of a public data set into domain folders.

    Parameters
    ----------
    name
        Data set; `celladapt data list` names them.
    src
        Folder with the unpacked files, the archive, or a folder that holds the archives.
    dst
        Folder to make.
    """
    from celladapt.data import public

    _print(*map(str, public.convert(name, src, dst)))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    words = [
        _AT_HOME.sub(lambda found: (found["option"] or "") + str(Path("~").expanduser()), word)
        for word in (sys.argv[1:] if arguments is None else arguments)
    ]

    def run() -> Any:
        if any(re.fullmatch(r"(--[\w-]+=)?", word) for word in words):
            raise InputError("One of the arguments is empty, like a variable that is not set; give what belongs there, or leave its option out.")
        return app(words, exit_on_error=False, print_error=False)

    return exit_code(run, words)
