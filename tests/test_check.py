"""All that can be wrong with a data folder, one by one and all at once."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from rich.console import Console

from celladapt.data.check import CheckReport, check
from celladapt.data.folder import Folder
from celladapt.data.images import read_image, read_mask, write_image

Fault = Callable[[Path], None]


def image(root: Path, index: int) -> Path:
    return root / "images" / f"{root.name}{index}.png"


def mask(root: Path, index: int) -> Path:
    return root / "masks" / f"{root.name}{index}.png"


def truncate_image(root: Path) -> None:
    image(root, 0).write_bytes(image(root, 0).read_bytes()[:100])


def empty_image_file(root: Path) -> None:
    image(root, 1).write_bytes(b"")


def truncate_mask(root: Path) -> None:
    mask(root, 2).write_bytes(mask(root, 2).read_bytes()[:60])


def mask_without_image(root: Path) -> None:
    shutil.copy(mask(root, 0), root / "masks" / "orphan.png")


def other_size(root: Path) -> None:
    write_image(mask(root, 3), read_mask(mask(root, 3))[:-1])


def empty_mask(root: Path) -> None:
    write_image(mask(root, 4), np.zeros((64, 64), np.uint8))


def five_channels(root: Path) -> None:
    tifffile.imwrite(root / "images" / "five.tif", np.zeros((64, 64, 5), np.uint8), photometric="minisblack", planarconfig="contig")


def duplicate(root: Path) -> None:
    Image.fromarray(read_image(image(root, 5))).save(root / "images" / "copy.bmp")  # other bytes, same pixels


def same_stem(root: Path) -> None:
    (root / "images" / f"{image(root, 6).stem}.tif").touch()


def jpeg_mask(root: Path) -> None:
    with Image.open(image(root, 7)) as opened:
        opened.save(mask(root, 7), format="JPEG")


FAULTS: dict[Fault, tuple[str, str]] = {
    truncate_image: ("source0.png", "is damaged or cut short"),
    empty_image_file: ("source1.png", "is empty (0 bytes)"),
    truncate_mask: ("source2.png", "is damaged or cut short"),
    mask_without_image: ("orphan.png", "is a mask without an image of the same name"),
    other_size: ("source3.png", "is 64×63 pixels but its image is 64×64"),
    five_channels: ("five.tif", "has 5 channels"),
    duplicate: ("source5.png", "has the same pixels as"),
    same_stem: ("source6.tif", "has the same stem as source6.png"),
    jpeg_mask: ("source7.png", "is a JPEG, whose compression blurs labels"),
}


def printed(report: CheckReport, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(report)
    return console.export_text()


def described(report: CheckReport) -> set[tuple[str, str]]:
    return {(finding.path.name, finding.message.partition(" /")[0]) for finding in report.faults}


def test_a_mask_that_qupath_named_without_ome_is_taken_and_a_turned_photograph_is_named(tiny_domains: tuple[Path, Path]) -> None:
    root = tiny_domains[0]
    (root / "masks" / "scan.png").write_bytes((root / "masks" / "source0.png").read_bytes())
    (root / "images" / "scan.ome.png").write_bytes((root / "images" / "source1.png").read_bytes())
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(root / "images" / "source2.png") as image:
        image.save(root / "images" / "source2.png", exif=exif)
    found = check(root)
    assert any("is taken for the mask of scan.ome;" in str(note) for note in found.notes if note.path.name == "scan.png")
    assert any("is turned by a tag" in note.message for note in found.findings if note.path.name == "source2.png")


def test_sound_folders(tiny_domains: tuple[Path, Path]) -> None:
    report = check(tiny_domains)
    assert report.ok
    assert report.findings == []
    source, target = report.summary
    assert (source.images, source.masks, source.size_range) == (8, 8, "64×64")
    assert (source.bits, source.channels, target.channels) == ({8}, {1}, {3})
    labels = [read_mask(path) for path in (tiny_domains[0] / "masks").iterdir()]
    assert source.nuclei == sum(int(label.max()) for label in labels)
    assert source.foreground == pytest.approx(np.mean([label > 0 for label in labels]))
    assert 8 < (source.median_diameter or 0) < 14
    text = printed(report)
    assert "No fault in 2 folders: ready for training." in text
    assert "64×64" in text


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_alone(fault: Fault, tiny_domains: tuple[Path, Path]) -> None:
    fault(tiny_domains[0])
    report = check(tiny_domains)
    assert not report.ok
    assert described(report) == {FAULTS[fault]}
    assert all(finding.path.is_relative_to(tiny_domains[0]) and finding.cure for finding in report.faults)


def test_all_faults_at_once(tiny_domains: tuple[Path, Path]) -> None:
    for fault in FAULTS:
        fault(tiny_domains[0])
    report = check(tiny_domains)
    assert described(report) == set(FAULTS.values())
    assert len(report.faults) == len(FAULTS)
    text = " ".join(printed(report).split())
    assert all(message in text for _, message in FAULTS.values())
    assert "9 faults and 1 note in 2 folders: mend the faults before training." in text


def test_an_empty_mask_may_be_right_but_not_all_of_them(tiny_domains: tuple[Path, Path]) -> None:
    empty_mask(tiny_domains[0])
    report = check(tiny_domains)
    assert report.ok
    (note,) = report.notes
    assert (note.path.name, note.message) == ("source4.png", "holds no nucleus")
    for path in (tiny_domains[0] / "masks").iterdir():
        write_image(path, np.zeros((64, 64), np.uint8))
    assert [fault.message for fault in check(tiny_domains).faults] == ["holds no nucleus"] * 8


def test_duplicates_across_folders(tiny_domains: tuple[Path, Path]) -> None:
    source, target = tiny_domains
    shutil.copy(image(source, 3), target / "images" / "renamed.png")
    assert check([source]).ok
    assert check([target]).ok
    (finding,) = check([source, target]).faults
    assert finding.path == target / "images" / "renamed.png"
    assert str(image(source, 3)) in finding.message
    assert "test" in finding.cure


def test_one_folder_is_one_folder(tiny_domains: tuple[Path, Path]) -> None:
    for one in (tiny_domains[0], str(tiny_domains[0]), (str(tiny_domains[0]),)):
        assert [row.folder for row in check(one).summary] == [tiny_domains[0]]


def test_a_folder_given_twice(tiny_domains: tuple[Path, Path]) -> None:
    report = check([tiny_domains[0], tiny_domains[0] / ".." / "source"])
    assert [finding.message for finding in report.faults] == ["is given more than once"]
    assert len(report.summary) == 1


def test_bad_folders(tmp_path: Path, tiny_domains: tuple[Path, Path]) -> None:
    (tmp_path / "bare" / "images").mkdir(parents=True)
    (tmp_path / "nothing").mkdir()
    report = check([tmp_path / "absent", tmp_path / "bare", tmp_path / "nothing", tiny_domains[0]])
    assert [finding.message for finding in report.faults] == ["does not exist", "holds no image", "has no images/ folder"]
    assert [row.images for row in report.summary] == [0, 0, 0, 8]
    assert "–" in printed(report)


def test_notes_are_no_faults(tiny_domains: tuple[Path, Path]) -> None:
    source, target = tiny_domains
    mask(source, 0).unlink()
    (source / "images" / "readme.md").touch()
    (source / "images" / ".DS_Store").touch()
    for index in range(2):  # equal blank images are no duplicates worth a fault
        write_image(target / "images" / f"target{index}.png", np.full((64, 64), 7, np.uint8))
    write_image(mask(target, 2), np.ones((64, 64), np.uint8))
    report = check([source, target])
    assert report.ok
    assert [(finding.path.name, finding.message) for finding in report.notes] == [
        ("images", "holds 1 entry of unknown type (readme.md), left out"),
        ("masks", "lacks a mask for 1 of 8 images (source0)"),
        ("target0.png", "is blank (all its pixels are equal)"),
        ("target1.png", "is blank (all its pixels are equal)"),
        ("target2.png", "marks 100% of the image as nuclei"),
        ("masks", "holds 1 mask with one value beside 0, in which touching nuclei count as one"),
    ]
    assert "No fault and 6 notes in 2 folders" in printed(report)


def test_masks_that_mark_most_of_the_images_are_not_ready_for_training(tiny_domains: tuple[Path, Path]) -> None:
    for index in range(8):
        write_image(mask(tiny_domains[0], index), 255 * (read_mask(mask(tiny_domains[0], index)) == 0).astype(np.uint8))
    report = check(tiny_domains)
    assert report.ok
    assert f"the masks of {tiny_domains[0]} mark most of the images as nuclei" in report.verdict
    jpeg_mask(tiny_domains[0])
    assert check(tiny_domains).verdict.startswith("1 fault and 8 notes in 2 folders: mend the faults")


def test_annotations_elsewhere_are_noted(tiny_domains: tuple[Path, Path]) -> None:
    source, target = tiny_domains
    (source / "masks").rename(source / "Masks")
    assert check([source]).summary[0].masks == 8, "in whatever case"
    assert len(Folder.open(source).masks) == 8
    (target / "masks").rename(target / "labels")
    (finding,) = check([target]).findings
    assert finding.path.name == "labels"
    assert "call it masks/" in finding.cure
    for path in sorted((target / "labels").iterdir())[:3]:
        shutil.copy(path, target / "images" / f"{path.stem}_mask.png")
    (target / "images" / "more").mkdir()
    (target / "images" / "a.geojson").touch()
    told = {finding.path.name: str(finding) for finding in check([target]).notes}
    assert "target0_mask.png is taken for an image, like target0 (3 such files)" in told["target0_mask.png"].partition("images/")[2]
    assert "QuPath" in told["images"]
    assert any("1 folder (more), in which nothing is looked for" in str(finding) for finding in check([target]).notes)


def test_masks_that_are_called_as_other_programs_call_them_are_told(tiny_domains: tuple[Path, Path]) -> None:
    for index in range(8):
        mask(tiny_domains[0], index).rename(mask(tiny_domains[0], index).with_stem(f"source{index}_mask"))
    (finding,) = check([tiny_domains[0]]).findings
    assert str(finding).endswith("masks/source0_mask.png is taken for the mask of source0 (8 such files); rename it if it is of another image.")
    assert len(Folder.open(tiny_domains[0]).masks) == 8
    shutil.copy(mask(tiny_domains[0], 0).with_stem("source0_mask"), mask(tiny_domains[0], 0))
    (fault,) = check([tiny_domains[0]]).faults
    assert str(fault).endswith("source0_mask.png is of the same image as source0.png; keep one of the two or rename it.")


def test_stacks_and_specks_are_noted(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", np.random.default_rng(ord(name)).integers(0, 255, (5, 64, 64)).astype(np.uint8))
        specks = np.zeros((64, 64), np.uint8)
        specks[::8, ::8] = 1
        write_image(tmp_path / "masks" / f"{name}.png", specks)
    tifffile.imwrite(tmp_path / "images" / "c.tif", np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
    tifffile.imwrite(tmp_path / "masks" / "c.tif", np.repeat(specks[None], 6, axis=0))
    report = check([tmp_path])
    assert [str(fault) for fault in report.faults] == [
        f"{tmp_path}/masks/c.tif has 6 planes or images; save one plane in which each nucleus has a number."
    ]
    told = " ".join(map(str, report.notes))
    assert "has 5 planes or images, of which the first alone is read (2 such files)" in told
    assert "nuclei that are 1.1 px wide in the median" in told


def test_unannotated_folders_need_no_masks(tiny_domains: tuple[Path, Path]) -> None:
    shutil.rmtree(tiny_domains[1] / "masks")
    report = check([tiny_domains[1], tiny_domains[0] / "images"])
    assert report.findings == []
    assert [(row.masks, row.nuclei, row.median_diameter, row.foreground) for row in report.summary] == [(0, 0, None, None)] * 2
    assert "no mask either" in report.verdict


def test_binary_masks_and_huge_labels_are_counted(tmp_path: Path) -> None:
    pixels = np.arange(400, dtype=np.uint16).reshape(20, 20)
    labels = np.zeros((20, 20), np.int32)
    labels[2:6, 2:6], labels[10:14, 10:14] = 255, 255
    write_image(tmp_path / "images" / "a.png", pixels)
    write_image(tmp_path / "masks" / "a.png", labels)
    write_image(tmp_path / "images" / "b.png", pixels[:, ::-1])
    labels[2:6, 2:6], labels[6:8, 2:6] = 2**31 - 1, 3
    write_image(tmp_path / "masks" / "b.tif", labels)
    (row,) = check([tmp_path]).summary
    assert (row.nuclei, row.bits, row.channels) == (5, {16}, {1})
    assert row.median_diameter == pytest.approx(2 * np.sqrt(16 / np.pi))


def test_masks_of_classes_and_channels_that_are_not_seen_are_noted(tmp_path: Path) -> None:
    pixels = np.arange(64 * 64 * 4, dtype=np.uint16).reshape(64, 64, 4)
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    classes = np.zeros((64, 64), np.uint8)
    for index, corner in enumerate(range(2, 60, 8)):
        classes[corner : corner + 5, 4:9] = classes[corner : corner + 5, 40:45] = 1 + index % 2
    write_image(tmp_path / "masks" / "a.png", classes)
    report = check([tmp_path])
    assert report.ok
    assert report.summary[0].nuclei == 16
    assert "has 4 channels, of which the first 3 are seen" in printed(report)
    assert "a.png holds 2 values, each in many pieces, which are taken for classes" in printed(report)


def test_tiles_of_slides_and_what_is_not_read_are_noted_with_a_cure(tmp_path: Path) -> None:
    for index, name in enumerate(("a_0_0", "a_0_64", "b_0_0", "b_64_0")):
        write_image(tmp_path / "images" / f"{name}.png", np.arange(index, 64 + index, dtype=np.uint8).reshape(8, 8))
    (tmp_path / "images" / "scan.svs").touch()
    notes = printed(check([tmp_path]), 400)
    assert "names like tiles of several slides, which a split would part; keep those of one slide together with --group '^(.+?)[_-]x?" in notes
    assert "(scan.svs), left out; save regions of slides as PNG or TIFF to train on" in notes
    (tmp_path / "dataset.toml").write_text('group = "^[ab]"')
    assert "tiles of several slides" not in printed(check([tmp_path]), 400)


def test_masks_of_other_images_are_noted(tiny_domains: tuple[Path, Path]) -> None:
    root = tiny_domains[0]
    assert "neither lighter nor darker" not in printed(check([root]), 400)
    paths = sorted((root / "masks").iterdir())
    labels = [read_mask(path) for path in paths]
    for path, other in zip(paths, [*labels[1:], labels[0]], strict=True):
        write_image(path, other.astype(np.uint16))
    report = check([root])
    assert report.ok
    assert "marks what is neither lighter nor darker than the rest of the image, and so do the others; see that each mask" in printed(report, 400)


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    write_image(tmp_path / "[red]x" / "images" / "[bold].png", np.zeros((4, 4), np.uint8))
    assert "[bold].png is blank" in printed(check([tmp_path / "[red]x"]))


def test_real_data(shared_data: Path) -> None:
    report = check([shared_data / "monuseg" / organ for organ in ("kidney", "breast")])
    assert report.ok
    assert [row.nuclei for row in report.summary] == [5577, 2214]
