"""The report says what the run folder says, survives what is missing, and lets nothing from outside become markup."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celladapt.errors import InputError
from celladapt.reporting import report
from celladapt.reporting.figures import outlines, training_lines, window
from celladapt.reporting.rendering import method_name

HOSTILE = '<script>window.hacked=1;"&'
SIZE = 48


def write_run(
    folder: Path,
    *,
    method: str = "cellseguda",
    iou: float = 0.7,
    stems: tuple[str, ...] = ("a", "b", "c", "d", "e"),
    pictures: int = 2,
    masks: bool = True,
    finished: bool = True,
    labels: bool = False,
    selected: int = 40,
    steps: int = 60,
    **info: Any,
) -> Path:
    """A run folder as training leaves it, from made-up numbers: image k scores ``iou`` + 0.01 k, the first ``pictures`` have examples."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:SIZE, :SIZE]
    disc = np.hypot(y - 20, x - 24) < 9
    for stem in stems[:pictures]:
        example = folder / "examples" / stem
        example.mkdir(parents=True)
        for name in ("image", "reconstruction"):
            Image.fromarray(np.where(disc[..., None], [90, 60, 140], [230, 200, 220]).astype(np.uint8)).save(example / f"{name}.png")
        Image.fromarray((disc * 200 + 20).astype(np.uint8)).save(example / "probability.png")
        Image.fromarray((disc * 255).astype(np.uint8)).save(example / "prediction.png")
        if masks:
            Image.fromarray(disc.astype(np.uint16) * 7).save(example / "truth.png")
    (folder / "config.toml").write_text(
        f'source = "/data/grey"\ntarget = "/data/violet"\nmethod = "{method}"\nsteps = {steps}\nseed = 3\n[options]\nlambda_adv = 0.001\n'
    )
    split = {"train": ["t1", "t2", "t3"], "val": ["v1"], "test": list(stems)}
    (folder / "split.json").write_text(json.dumps({"source": split, "target": split}))
    lines = [{"step": step, "seg": 1 / step, "adv": 0.5 + step % 3} for step in range(1, steps + 1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"step": step, "infomax": step / 100, "source_iou": 0.8} for step in range(20, steps + 1, 20)]
    (folder / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {
        "celladapt": "0.1.0",
        "torch": "2.13.0",
        "python": "3.12.1",
        "platform": "Linux",
        "device": "cpu",
        "threads": 2,
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:06:52+00:00" if finished else None,
        "seconds": 412.0,
        "command": "celladapt adapt /data/grey /data/violet",
        "fingerprint": {"source": "5a" * 32, "target": "7b" * 32},
        "method_doc": "Adversarial adaptation in output space.",
        "terms": {"seg": "L_seg: soft Dice on the source", "adv": "L_adv: fool the discriminator"},
        "parameters": {"S": 14788929},
        "target_labelled": ["t1"] if labels else [],
        "notes": [],
        "selected": {"step": selected, "criterion": "infomax", "score": 0.3, "uses_target_labels": labels} if finished else None,
    }
    (folder / "run.json").write_text(json.dumps(record | info))
    if masks and finished:
        images = {stem: dict.fromkeys(("iou", "dice", "aji", "pq", "f1"), iou + 0.01 * index) for index, stem in enumerate(stems)}
        mean = {name: float(np.mean([image[name] for image in images.values()])) for name in ("iou", "dice", "aji", "pq", "f1")}
        (folder / "metrics.json").write_text(json.dumps({"mean": mean, "sd": dict.fromkeys(mean, 0.0158), "images": images}))
    return folder


def write_comparison(folder: Path, pairs: tuple[str, ...] = ("grey-violet",), link: bool = True) -> Path:
    """Three methods, two seeds: source_only 0.5 and 0.6, cellseguda 0.7 and 0.8, cellsegssda (with labels) 0.9 and 0.9."""
    rows = []
    for pair in pairs:
        for method, values in {"source_only": (0.5, 0.6), "cellseguda": (0.7, 0.8), "cellsegssda": (0.9, 0.9)}.items():
            for seed, iou in enumerate(values):
                run = write_run(folder / pair / method / f"seed{seed}", method=method, iou=iou, stems=("a", "b"), labels=method == "cellsegssda")
                if link:
                    (run / "report.html").touch()
                place = run.relative_to(folder).as_posix()
                rows.append({"pair": pair, "method": method, "seed": seed, "iou": iou, "dice": iou, "aji": "", "seconds": 60, "run": place})
    with (folder / "cells.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def page(folder: Path) -> str:
    return report(folder).read_text(encoding="utf-8")


def words(html: str) -> str:
    """The page's text as a reader sees it, roughly: no tags, single spaces."""
    body = re.sub(r"<style.*?</style>|<svg.*?</svg>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", body))


def test_the_run_page_tells_the_whole_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", notes=["Only crops of 32 px fit."])
    write_run(run / "baseline", method="source_only", iou=0.6)
    path = report(run)
    assert path == run / "report.html"
    text = words(path.read_text(encoding="utf-8"))
    for expected in (
        "grey → violet",
        "CellSegUDA",
        "foreground IoU of 0.720 ± 0.016",
        "the difference is +0.100",
        "5 of 5 images gained",
        "n = 5 images",
        "6 min 52 s",
        "Only crops of 32 px fit.",
        "step 40",
        "Checkpoint picked without target labels",
        "No target mask used in training",
        "L_seg: soft Dice on the source",
        "options.lambda_adv",
        "5a" * 32,
        "14,788,929",
        "3 train, 1 validation, 5 test",
        "both empty scores 1.0",
        "PMLR 121:277–287",
    ):
        assert expected in text, expected
    assert text.count("Reconstruction R") == text.count("Annotation") == 2
    assert "with an IoU of 1.000, mean over the examples" in text
    assert text.count("Source only") == 2 + 1


@pytest.mark.parametrize(
    ("expected", "told", "warned"),
    [
        ({"iou": 0.27, "low": 0.0, "high": 1.0}, "cannot be told without masks", False),
        ({"iou": 0.27, "low": 0.1, "high": 0.4, "masks": 0}, "IoU of 0.270 is to be expected", True),
        ({"iou": 0.0, "low": 0.0, "high": 0.0}, "IoU of 0.000 is to be expected", True),
        ({"iou": 0.27}, "n = 5 images", False),
    ],
)
def test_what_to_expect_is_said_where_it_can_be_told(tmp_path: Path, expected: dict[str, float], told: str, warned: bool) -> None:
    text = words(page(write_run(tmp_path / "run", expected=expected)))
    assert told in text
    assert ("The IoU that is expected is low" in text) == warned
    assert ("0.270" in text) == ("0.270" in told)


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    html = page(write_run(tmp_path / "run"))
    assert set(re.findall(r'(?:src|href)="([a-z]+:|[^"#])', html)) == {"data:"}
    assert "default-src 'none'" in html
    assert "url(http" not in html
    assert "@import" not in html
    assert "<script" not in html


def test_target_labels_are_owned_up_to(tmp_path: Path) -> None:
    text = words(page(write_run(tmp_path / "run", labels=True)))
    assert "Checkpoint picked with target labels" in text
    assert "Trained with the masks of 1 target image" in text
    assert "1 of them with a mask" in text
    assert "Checkpoint picked without target labels" not in text


def test_the_upper_bound_is_called_one(tmp_path: Path) -> None:
    text = words(page(write_run(tmp_path / "run", method="supervised", pictures=0, target_labelled=["t1", "t3"])))
    assert "Trained with the masks of 2 target images" in text
    assert "on 2 annotated images of violet itself" in text
    assert "No target mask used" not in text


def test_no_claim_about_masks_that_the_record_does_not_make(tmp_path: Path) -> None:
    assert "No target mask used" not in page(write_run(tmp_path / "run", pictures=0, target_labelled=None))


def test_methods_are_written_as_in_their_papers() -> None:
    assert method_name("cellseguda") == "CellSegUDA"
    assert method_name("cellsegssda@25%:lambda_rec=0") == "CellSegSSDA (25%, lambda_rec=0)"
    assert method_name("mine") == "mine"


def test_no_masks_means_no_number(tmp_path: Path) -> None:
    text = words(page(write_run(tmp_path / "run", masks=False)))
    assert "No number can be given" in text
    assert "IoU of" not in text


def test_what_adapting_changed_is_said_without_annotations(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", masks=False, pictures=1)
    write_run(run / "baseline", method="source_only", masks=False, pictures=1)
    before = np.zeros((SIZE, SIZE), np.uint8)
    now = before.copy()
    before[:10, :20], now[:10, 10:30] = 255, 255  # 100 px in common, 300 px in either
    for folder, mask in ((run, now), (run / "baseline", before)):
        Image.fromarray(mask).save(folder / "examples" / "a" / "prediction.png")
    text = words(page(run))
    assert "overlap those of the network trained on the source only with an IoU of 0.333" in text
    assert "as R redraws it" in text


def test_an_unfinished_run_says_so_and_shows_what_is_there(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished=False, steps=30)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 31, "se')
    html = page(run)
    assert "This run has not finished." in html
    assert "step 30 of 30" in words(html)
    assert "L_adv: fool the discriminator" in html
    assert "No number can be given" not in html
    assert "damaged" not in html


@pytest.mark.parametrize("name", ["config.toml", "split.json", "log.jsonl", "validation.jsonl", "metrics.json", "examples"])
def test_an_absent_file_leaves_a_gap_not_a_crash(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", stems=("a",))
    (run / name).rename(tmp_path / "away")
    assert "How to cite" in page(run)


def test_absent_entries_of_the_record_leave_a_gap(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", pictures=0)
    for name in ("log.jsonl", "validation.jsonl", "metrics.json"):
        (run / name).unlink()
    record = json.loads((run / "run.json").read_text())
    for key in record:
        for value in ({}, {key: None}, {key: "text"}, {key: 5}, {key: {}}):
            (run / "run.json").write_text(json.dumps({name: entry for name, entry in record.items() if name != key} | value))
            assert "How to cite" in page(run), (key, value)


@pytest.mark.parametrize("name", ["config.toml", "split.json", "metrics.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", stems=("a",))
    (run / name).write_text("{[")
    assert f"{name} is damaged" in page(run)


def test_damaged_pictures_and_log_lines_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", stems=("a", "b"))
    image = run / "examples" / "a" / "image.png"
    image.write_bytes(image.read_bytes()[:60])
    (run / "examples" / "b" / "truth.png").write_bytes(b"")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(run / "examples" / "b" / "probability.png")
    log = run / "log.jsonl"
    log.write_text("nonsense\n" + log.read_text())
    html = page(run)
    assert html.count('class="example"') == 1
    assert "Annotation: b" not in html
    assert "Probability of nucleus: b" not in html
    assert "log.jsonl has 1 damaged line" in html


def test_names_from_outside_stay_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", stems=(HOSTILE, "b"), notes=[HOSTILE], terms={"seg": HOSTILE}, command=HOSTILE)
    config = (run / "config.toml").read_text().replace("/data/grey", "/data/<img src=x onerror=alert(1)>")
    (run / "config.toml").write_text(config)
    for name in ("log.jsonl", "validation.jsonl"):
        (run / name).write_text((run / name).read_text().replace('"adv"', '"</svg><script>$x"').replace('"infomax"', '"<b onload=1>\\""'))
    html = page(run)
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "<b onload" not in html
    assert "&lt;script&gt;window.hacked=1;" in html


def test_a_name_that_is_not_utf8_does_not_stop_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", stems=("b",), notes=["\udcff"])
    try:
        (run / "examples" / "b").rename(run / "examples" / "b\udcff")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert "b?" in page(run)


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"selected": 20}, "first one validated"),
        ({"selected": 60}, "last one validated"),
        ({"stems": ("a", "b")}, "Only 2 test images"),
    ],
)
def test_doubtful_runs_are_warned_of(tmp_path: Path, options: dict[str, Any], warning: str) -> None:
    assert warning in page(write_run(tmp_path / "doubtful", pictures=0, **options))
    assert warning not in page(write_run(tmp_path / "sound", pictures=0))


def test_that_the_last_step_is_the_surest_is_as_it_should_be(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", pictures=0, selected=60)
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "selected": {**info["selected"], "criterion": "entropy"}}))
    assert "last one validated" not in page(run)


def test_a_collapsed_or_harmful_run_is_warned_of(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", stems=("a", "b", "c"), pictures=3, iou=0.5)
    write_run(run / "baseline", method="source_only", iou=0.6, stems=("a", "b", "c"))
    for stem, value in (("a", 0), ("b", 255)):
        Image.fromarray(np.full((SIZE, SIZE), value, np.uint8)).save(run / "examples" / stem / "prediction.png")
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 61, "seg": NaN}\n')
    text = words(page(run))
    assert "nearly empty on 1 of 3" in text
    assert "nearly all foreground on 1 of 3" in text
    assert "no gain from adaptation is shown" in text
    assert "The term seg was not a finite number, first at step 61" in text


def test_an_empty_image_predicted_empty_is_no_collapse(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", stems=("a",))
    for name in ("prediction", "truth"):
        Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(run / "examples" / "a" / f"{name}.png")
    assert "nearly empty" not in page(run)


def test_few_examples_of_many_span_the_scores(tmp_path: Path) -> None:
    stems = tuple(f"image{index:02d}" for index in range(11))
    html = page(write_run(tmp_path / "run", stems=stems, pictures=11))
    shown = re.findall(r'alt="Image: (\w+)"', html)
    assert shown == [f"image{index:02d}" for index in (0, 2, 4, 6, 8, 10)]
    assert "6 of 11 examples" in words(html)


def test_the_comparison_page(tmp_path: Path) -> None:
    html = page(write_comparison(tmp_path / "bench"))
    text = words(html)
    assert "0.550 ± 0.071" in text
    assert "0.750 ± 0.071 (+0.200)" in text
    assert "0.900 ± 0.000 (+0.350)" in text
    assert "the best method without target labels is CellSegUDA" in text
    assert "With target labels: CellSegSSDA" in text
    assert html.count('<td class="best">') == 2, "IoU and Dice; AJI was not given"
    assert "AJI</summary>" not in html
    # Two images under three methods, beside the bare image and its annotation.
    assert html.count("<img") == 2 * 5
    assert 'href="./grey-violet/cellseguda/seed1/report.html"' in html
    assert html.count("page of this run") == 6
    assert html.count('<svg class="curve"') == 2


def test_every_score_leads_to_its_run(tmp_path: Path) -> None:
    html = page(write_comparison(tmp_path / "bench"))
    for method in ("source_only", "cellseguda", "cellsegssda"):
        for seed in range(2):
            # IoU and Dice of the table, and the list of all runs.
            assert html.count(f'href="./grey-violet/{method}/seed{seed}/report.html"') == 3


def test_the_figures_and_comparisons_of_a_benchmark(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "bench")
    html = page(folder)
    assert html.count('<svg class="chart"') == 1, "no curve over labels, as no share of them was given"
    for svg in re.findall(r'<svg class="(?:chart|curve)".*?</svg>', html, flags=re.S):
        assert {"currentColor", "var(--c0)"} <= set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)), "in the page's colours, light or dark"
    text = words(html)
    assert "What is different from what" in text
    assert "CellSegUDA is 0.200 IoU above Source only; too few test images (2) for a test." in text
    assert "not corrected for the number of comparisons" in text
    assert "Every two methods on grey-violet" in text
    assert "2 seeds (0-1); 60 steps" in text
    assert "test images: 2." in text
    for name in ("table.csv", "table.md", "table.tex", "measures.csv", "comparisons.csv", "methods.png", "methods.svg"):
        assert (folder / name).stat().st_size > 0


def test_many_images_give_a_verdict_and_a_matrix(tmp_path: Path) -> None:
    stems = tuple("abcdefgh")
    for method, iou in (("source_only", 0.5), ("cellseguda", 0.6), ("da_adv", 0.5)):
        write_run(tmp_path / "x" / method / "seed0", method=method, iou=iou, stems=stems, pictures=0)
    rows = "".join(f"x,{method},0,{iou + 0.035}\n" for method, iou in (("source_only", 0.5), ("cellseguda", 0.6), ("da_adv", 0.5)))
    (tmp_path / "cells.csv").write_text("pair,method,seed,iou\n" + rows)
    text = words(page(tmp_path))
    assert "CellSegUDA is 0.100 IoU above Source only (95 % interval 0.100 to 0.100, 8 images, 1 seed, so it says nothing of other seeds)." in text
    assert "DA-ADV and Source only have the same IoU on every image" in text
    assert "CellSegUDA +0.100 +0.100, +0.100 –+0.100 +0.100, +0.100 DA-ADV +0.000 +0.000, +0.000 −0.100" in text


def test_a_failed_cell_is_shown_and_the_rest_stands(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "bench")
    lines = (folder / "cells.csv").read_text().splitlines()
    lines = [lines[0] + ",error", *(line + "," for line in lines[1:])]
    lines[4] = f'grey-violet,cellseguda,1,,,,,grey-violet/cellseguda/seed1,"Out of memory & {HOSTILE[:8]}; lower --batch-size."'
    (folder / "cells.csv").write_text("\n".join(lines))
    html = page(folder)
    text = words(html)
    assert "1 run failed" in text
    assert "cellseguda on grey-violet, seed 1, failed: Out of memory &amp; &lt;script&gt;; lower --batch-size." in text
    assert "failed: Out of memory" in text[text.index("All runs") :]
    assert "0.700; failed (1 of 2) (+0.150)" in text
    assert "0.750" not in text
    assert "<script" not in html
    assert "failed (1 of 2)" in re.findall(r'<svg class="chart".*?</svg>', html, flags=re.S)[0]


def test_what_learns_nothing_comes_first_and_is_set_apart(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "bench")
    run = folder / "grey-violet" / "classical" / "seed0"
    write_run(run, method="classical", iou=0.4, stems=("a", "b"), pictures=0)
    for name in ("split.json", "log.jsonl", "validation.jsonl"):
        (run / name).unlink()
    (run / "run.json").write_text('{"finished": "2026-01-01", "seconds": 1.5}')
    with (folder / "cells.csv").open("a") as handle:
        handle.write("grey-violet,classical,0,0.405,0.405,,1.5,grey-violet/classical/seed0\n")
    alone = words(page(run))
    assert "Nothing was trained here: a classical segmentation was applied" in alone
    assert "A network" not in alone
    assert "losses" not in alone
    html = page(folder)
    text = words(html)
    assert html.count('<tr class="apart">') == 1
    assert text.index("Classicallearns nothing") < text.index("Source only 0.550")
    assert "0.405 (−0.145)" in text
    assert "2 seeds (0-1)" in text
    assert "Classical is 0.150 IoU below Source only" in text


def test_comparison_names_and_links_are_escaped(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "bench", pairs=('javascript:a"b<script>',))
    html = page(folder)
    assert 'href="./javascript%3Aa%22b%3Cscript%3E/' in html
    assert "<script" not in html


def test_a_comparison_without_run_folders_keeps_its_table(tmp_path: Path) -> None:
    rows = "pair,method,seed,iou\nx-y,source_only,0,0.5\nx-y,cellseguda,0,0.6\nx-y,da_adv,0,\nx-y,broken"
    (tmp_path / "cells.csv").write_text(rows)
    text = words(page(tmp_path))
    assert "0.600 (+0.100)" in text
    assert "DA-ADV" in text
    assert "One seed per method" in text


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a run folder"):
        report(tmp_path)
    (tmp_path / "cells.csv").write_text("pair,method\n")
    with pytest.raises(InputError, match=r"cells\.csv holds no row"):
        report(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json cannot be read"):
        report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_long_logs_are_thinned_but_keep_their_spikes() -> None:
    x = np.arange(1.0, 100_001)
    y = np.ones_like(x)
    y[54_321] = 9
    faint, strong = training_lines(x, y)
    assert faint.faint
    assert not strong.faint
    assert len(faint.x) <= 600
    assert len(strong.x) <= 300
    assert faint.y.max() == 9
    assert strong.y.max() < 1.1


def test_outlines_part_touching_nuclei_and_close() -> None:
    labels = np.zeros((10, 12), np.uint16)
    labels[2:6, 1:5] = 40
    labels[2:6, 5:9] = 7
    assert len(outlines(labels)) == 2
    assert len(outlines(labels > 0)) == 1
    assert outlines(np.zeros((4, 4), np.uint8)) == []
    (whole,) = outlines(np.ones((4, 6), np.uint8))
    assert (whole[0] == whole[-1]).all()
    assert whole.min(axis=0).tolist() == [-0.5, -0.5]
    assert whole.max(axis=0).tolist() == [5.5, 3.5]


@pytest.mark.parametrize(
    ("shape", "shown", "note"),
    [
        ((64, 64), (512, 512), "64 × 64 px"),
        ((256, 320), (410, 512), "320 × 256 px"),
        ((100, 200), (320, 640), "200 × 100 px"),
        ((1000, 1000), (512, 512), "centre 512 × 512 px of 1000 × 1000 px"),
        ((20, 5000), (40, 1024), "centre 512 × 20 px of 5000 × 20 px"),
    ],
)
def test_images_are_shown_at_a_size_that_can_be_judged(shape: tuple[int, int], shown: tuple[int, int], note: str) -> None:
    view = window(*shape)
    assert view.shown == shown
    assert view.note == note
