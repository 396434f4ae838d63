from dataclasses import fields
from pathlib import Path

import pytest

from celladapt.config import Config, MethodSpec, preset_options, presets, with_options
from celladapt.errors import InputError


@pytest.mark.parametrize(
    "config", [Config(), Config(Path("a"), Path("b"), crop="whole", seed=3, group="x+", split=Path("s.json"), method="cellsegssda@10%")]
)
def test_toml_round_trip(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml())
    assert Config.from_toml(file) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz = 3", "steps"),
        ('steps = "3"', "--steps is '3'; it must be a whole number"),
        ("steps = 0", "above 0"),
        ("steps = true", "whole number"),
        ("crop = 16", "at least 32"),
        ('crop = "half"', "'whole'"),
        ('select = "best"', "'infomax'"),
        ("val_fraction = 0.6\ntest_fraction = 0.5", "below 1"),
        ('group = "("', "regular expression"),
        ('method = "cellsegssda@10%"\ntarget_labels = "25%"', "disagree"),
        ("steps = = 3", "not a valid TOML"),
    ],
)
def test_a_wrong_file_is_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        Config.from_toml(file)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_presets_load_and_options_override_them() -> None:
    for name in presets():
        with_options(Config(), preset_options(name))
    assert with_options(Config(), {**preset_options("fast"), "steps": 7}) == Config(
        steps=7, width=16, crop=128, batch_size=4, validate_every=100, checkpoint_every=100
    )
    with pytest.raises(InputError, match="fast"):
        preset_options("quick")


def test_the_paper_preset_is_the_released_recipe() -> None:
    paper = with_options(Config(), preset_options("paper"))
    assert (paper.lr_s, paper.lr_d, paper.lr_r, paper.schedule) == (1e-4, 1e-3, 1e-3, "constant")
    assert (paper.steps, paper.batch_size, paper.crop, paper.width, paper.augment) == (5000, 1, "whole", 64, "none")
    assert (paper.validate_every, paper.select, paper.batch_norm) == (500, "labelled", "shared")


def test_method_spec_forms() -> None:
    assert MethodSpec.parse("cellseguda") == MethodSpec("cellseguda")
    assert MethodSpec.parse("cellsegssda@10%:lambda_rec=0:lambda_adv=1e-2") == MethodSpec(
        "cellsegssda", "10%", {"lambda_rec": "0", "lambda_adv": "1e-2"}
    )
    for wrong in ("", "a b", "x@", "x:y", "x@many"):
        with pytest.raises(InputError):
            MethodSpec.parse(wrong)


def test_every_option_is_explained() -> None:
    source = Path(__import__("celladapt.config", fromlist=["x"]).__file__).read_text()
    for f in fields(Config):
        assert f"    {f.name}: " in source
        assert source.split(f"    {f.name}: ")[1].split("\n")[1].strip().startswith('"""'), f.name
