"""What a person should know about a file: that more is in it than is segmented, or that the size of its pixels is not stated, is another than said, or not the model's."""

from collections.abc import Iterator

from celladapt.data.images import deep
from celladapt.data.limits import MAX_CHANNELS, TAKEN_CHANNELS
from celladapt.data.slide import open_slide, tiff_pixel_size
from celladapt.data.tiff import planes_and_channels
from celladapt.job import Job
from celladapt.model import Predictor

_MISFIT = 1.2  # pixel sizes that differ by a greater factor are told
_NEAR = 1.02  # and those that differ less are the same


def misfits(model: Predictor, job: Job) -> Iterator[str]:
    """What a person should know about a file, of itself and beside the model, a sentence each.

    Raises:
        InputError: the slide cannot be opened.
    """
    settings, trained = job.settings, model.pixel_size
    stated = settings.pixel_size and _stated_pixel_size(job)
    if stated and settings.pixel_size and not 1 / _NEAR <= settings.pixel_size / stated <= _NEAR:
        yield f"{job.image.name} says {stated:.3g} µm per pixel; it is taken for {settings.pixel_size:.3g}, as --pixel-size says."
    if not job.slide:
        if settings.at is not None:
            yield "--at is for slides: images are segmented as large as they are."
        planes, channels = planes_and_channels(job.image) if job.image.suffix.lower() in (".tif", ".tiff") else (1, 1)
        if planes > 1:
            yield f"Files in {job.image.parent} hold several planes or images: of each file the first alone is segmented."
        if TAKEN_CHANNELS < channels <= MAX_CHANNELS:
            yield f"Files in {job.image.parent} have {channels} channels: the first {TAKEN_CHANNELS} are taken; where nuclei are in another one, save that alone."
        trained_deep = model.about.get("deep")
        if trained_deep is not None and trained_deep != (stretched := deep(job.image)):
            here, there = ("more than 8", "8") if stretched else ("8", "more than 8")
            yield (
                f"Images in {job.image.parent} have {here} bits a channel, those the model was trained on {there}: of more than 8 each image is stretched to its "
                "own range, so brightness may not be what the model knows; look at the masks, or save both alike."
            )
        size = settings.pixel_size or tiff_pixel_size(job.image)
        if size is not None and trained is not None and not 1 / _MISFIT <= size / trained <= _MISFIT:
            yield (
                f"The model was trained at {trained:.3g} µm per pixel, {job.image.parent} has {size:.3g}: nuclei look {trained / size:.2g} times as large to it; "
                f"scale the images by {size / trained:.2g}, or train on such images."
            )
        return
    with open_slide(job.image, settings.pixel_size) as slide:
        wanted = settings.at or trained
        whose = "--at is" if settings.at else "the model was trained at"
        if wanted is None:
            known = f" ({slide.pixel_size:.3g} µm per pixel)" if slide.pixel_size else ""
            yield f"The model does not know the pixel size it was trained at, so {job.image.name} is segmented at full resolution{known}; --at MICRONS sets another."
        elif slide.pixel_size is None:
            yield f"{job.image.name} does not say its pixel size, so it is segmented at full resolution, though {whose} {wanted:.3g} µm per pixel; give --pixel-size."
        elif slide.pixel_size > wanted * _MISFIT:
            yield f"{job.image.name} has {slide.pixel_size:.3g} µm per pixel at most, {whose} {wanted:.3g}: it is enlarged {slide.pixel_size / wanted:.2g} times and less sharp."
        elif settings.at is not None and trained is not None and not 1 / _MISFIT <= settings.at / trained <= _MISFIT:
            yield f"The model was trained at {trained:.3g} µm per pixel, --at is {settings.at:.3g}: nuclei look {trained / settings.at:.2g} times as large to it."


def _stated_pixel_size(job: Job) -> float | None:
    if not job.slide:
        return tiff_pixel_size(job.image)
    with open_slide(job.image) as slide:
        return slide.pixel_size
