"""Options: to and from TOML, complaints, presets, the way a method is written."""

import inspect
import re
import tomllib
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from celladapt.config import Config, MethodSpec, preset_options, presets, read_options, with_options
from celladapt.errors import InputError

OTHER: dict[str, Any] = {
    "source": Path("/data/a b/quelle"),
    "target": Path('/data/ziel "ü"'),
    "method": "cellsegssda:lambda_rec=0",
    "steps": 7,
    "max_megapixels": 900.0,
    "width": 4,
    "crop": 48,
    "batch_size": 3,
    "seed": 11,
    "split_seed": 12,
    "target_labels": "25%",
    "select": "snd",
    "batch_norm": "shared",
    "augment": "flip",
    "ema": 0.5,
    "match": False,
    "pixel_size": 0.25,
    "labelled_share": 0.25,
    "fit_threshold": False,
    "lambda_bce": 0.5,
    "fallback": False,
    "precision": "bf16",
    "device": "cpu",
    "compile": True,
    "lr_s": 0.25,
    "lr_d": 1e-7,
    "lr_r": 2.0,
    "schedule": "constant",
    "validate_every": 2,
    "checkpoint_every": 5,
    "validation_images": 1,
    "val_fraction": 0.0,
    "test_fraction": 0.5,
    "group": r"^(\w+)_\d",
    "split": Path("split.json"),
    "keep_checkpoints": True,
    "baseline": False,
}
"""Every option with a value that is not its default."""


def written(tmp_path: Path, config: Config) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    return path


def one_sentence(message: str) -> bool:
    return message.endswith(".") and "\n" not in message and not re.search(r"[.!?] [A-Z]", message)


def test_toml_round_trip_keeps_every_option(tmp_path: Path) -> None:
    config = Config(**OTHER)
    default = asdict(Config())
    assert all(default[name] != value for name, value in asdict(config).items()), "give each option another value than its default"
    again = Config.from_toml(written(tmp_path, config))
    assert again == config
    assert {name: type(value) for name, value in asdict(again).items()} == {name: type(value) for name, value in asdict(config).items()}


@pytest.mark.parametrize("config", [Config(), Config(crop="whole"), Config(crop=32, lr_s=1)])
def test_toml_round_trip_of_defaults_and_of_both_kinds_of_crop(tmp_path: Path, config: Config) -> None:
    assert Config.from_toml(written(tmp_path, config)) == config


def test_every_option_has_a_default_and_nothing_can_be_changed_afterwards() -> None:
    assert all(f.default is not MISSING or f.default_factory is not MISSING for f in fields(Config))
    with pytest.raises(AttributeError):
        Config().steps = 3  # type: ignore[misc]


def test_every_option_is_explained() -> None:
    """Its docstring is the command line's help."""
    source = inspect.getsource(Config)
    for f in fields(Config):
        assert re.search(rf'^    {f.name}: .*\n    """\S.*\."""$', source, re.MULTILINE), f.name


def test_unknown_key_names_the_right_ones(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("batchsize = 4\n")
    with pytest.raises(InputError, match=r"batchsize.*batch_size") as caught:
        Config.from_toml(path)
    assert str(path) in str(caught.value)
    path.write_text("zzzz = 4\n")
    with pytest.raises(InputError, match="zzzz") as caught:
        Config.from_toml(path)
    assert all(f.name in str(caught.value) for f in fields(Config))
    with pytest.raises(InputError, match=r"lamda_rec"):
        with_options(Config(), {"lamda_rec": 1})


def test_with_options_replaces_only_what_is_given() -> None:
    assert with_options(Config(seed=3), {"steps": 9, "crop": "whole"}) == replace(Config(), seed=3, steps=9, crop="whole")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", 0),
        ("steps", -1),
        ("steps", 2.5),
        ("steps", True),
        ("steps", "many"),
        ("width", 0),
        ("batch_size", 0),
        ("crop", 31),
        ("crop", "half"),
        ("crop", 64.0),
        ("crop", None),
        ("seed", -1),
        ("split_seed", -1),
        ("select", "best"),
        ("select", ["snd"]),
        ("batch_norm", "none"),
        ("augment", None),
        ("precision", "fp16"),
        ("device", "tpu"),
        ("lr_s", 0.0),
        ("lr_d", float("nan")),
        ("lr_r", "small"),
        ("schedule", 1),
        ("val_fraction", 1.0),
        ("val_fraction", -0.1),
        ("test_fraction", float("nan")),
        ("val_fraction", 0.8),  # 0.25 for the test comes on top
        ("baseline", "yes"),
        ("baseline", 1),
        ("group", "("),
        ("group", 5),
        ("source", 5),
        ("method", ""),
        ("validate_every", 0),
        ("checkpoint_every", 0),
        ("validation_images", 0),
    ],
)
def test_a_wrong_value_is_named_in_one_sentence(option: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        Config(**{option: value})
    assert one_sentence(str(caught.value)), caught.value
    if option != "method":
        assert f"--{option.replace('_', '-')}" in str(caught.value)


def test_labels_come_from_the_method_or_the_option_but_do_not_disagree() -> None:
    assert Config().labels == "100%"
    assert Config(target_labels="5").labels == "5"
    assert Config(method="cellsegssda@10%").labels == "10%"
    assert Config(method="cellsegssda@10%", target_labels="10%").labels == "10%"
    with pytest.raises(InputError, match="disagree"):
        Config(method="cellsegssda@10%", target_labels="25%")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"steps = = 3", "not a valid TOML"),
        (b"\xff\xfe\x00", "not a valid TOML"),
        (b"[run]\nsteps = 3", "unknown option 'run'"),
        (b"steps = '3'", "whole number"),
    ],
)
def test_files_that_are_no_options(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        Config.from_toml(path)


def test_missing_file_and_folder_in_its_place(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(InputError, match=re.escape(str(path))):
            Config.from_toml(path)


def test_a_windows_editor_s_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(b"\xef\xbb\xbfsteps = 3\r\n")
    assert read_options(path) == {"steps": 3}


def test_presets_load_and_no_other_name_does(tmp_path: Path) -> None:
    assert {"default", "fast", "paper"} <= set(presets())
    for name in presets():
        with_options(Config(), preset_options(name))
    assert with_options(Config(), preset_options("default")) == Config()
    with pytest.raises(InputError, match="fast"):
        preset_options("fats")
    own = tmp_path / "own.toml"
    own.write_text("steps = 3")
    assert preset_options(str(own)) == {"steps": 3}
    with pytest.raises(InputError, match=r"none\.toml"):
        preset_options(str(tmp_path / "none.toml"))


def test_what_a_preset_and_the_command_line_say_is_judged_together(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('val_fraction = 0.8\nmethod = "cellsegssda@10%"\n', encoding="utf-8")
    assert with_options(Config(), {**preset_options(str(own)), "test_fraction": 0.1}).val_fraction == 0.8
    with pytest.raises(InputError, match="together below 1"):
        with_options(Config(), preset_options(str(own)))
    for line in ("val_fraction = 1.0", "val_fraction = '0.8'", "group = '('", "method = 'a b'", "seed = -1"):
        own.write_text(line, encoding="utf-8")
        with pytest.raises(InputError, match=r"own\.toml: "):
            preset_options(str(own))


def test_a_preset_may_begin_with_another_one(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('preset = "paper"\nsteps = 7\n', encoding="utf-8")
    assert preset_options(str(own)) == {**preset_options("paper"), "steps": 7}
    own.write_text('preset = "papre"\n', encoding="utf-8")
    with pytest.raises(InputError, match="'papre'; it must be one of"):
        preset_options(str(own))
    own.write_text('preset = "paper"\n', encoding="utf-8")
    with pytest.raises(InputError, match="'preset'"):
        read_options(own)  # a run's own config.toml names every option


@pytest.mark.parametrize(("name", "source", "target"), [("kirc_to_tnbc", "kirc", "tnbc"), ("tnbc_to_kirc", "tnbc", "kirc")])
def test_the_experiments_of_the_paper_are_presets(name: str, source: str, target: str) -> None:
    assert preset_options(name) == {**preset_options("paper"), "source": f"data/{source}", "target": f"data/{target}"}


def test_an_option_set_twice_is_refused() -> None:
    with pytest.raises(InputError, match="twice"):
        MethodSpec.parse("cellseguda:lambda_adv=1:lambda_adv=2")


def test_preset_paper_is_the_published_recipe() -> None:
    config = with_options(Config(), preset_options("paper"))
    published = {
        "steps": 5000,
        "width": 64,
        "crop": "whole",
        "batch_size": 1,
        "augment": "none",
        "lr_s": 1e-4,
        "lr_d": 1e-3,
        "lr_r": 1e-3,
        "schedule": "constant",
        "validate_every": 500,
        "select": "labelled",
        "batch_norm": "shared",
        "ema": 0,
        "match": False,
        "labelled_share": 0,
        "lambda_bce": 0,
        "fallback": False,
        "precision": "float32",
    }
    assert {name: getattr(config, name) for name in published} == published


def test_the_methods_own_defaults_are_the_published_weights() -> None:
    from celladapt import methods

    options = methods.find("cellseguda").Options()
    assert (options.lambda_adv, options.lambda_rec) == (0.001, 0.01)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("cellseguda", MethodSpec("cellseguda")),
        (" source_only ", MethodSpec("source_only")),
        ("cellsegssda@10%", MethodSpec("cellsegssda", "10%")),
        ("cellsegssda@5", MethodSpec("cellsegssda", "5")),
        ("cellsegssda@2.5%", MethodSpec("cellsegssda", "2.5%")),
        ("cellseguda:lambda_rec=0", MethodSpec("cellseguda", None, {"lambda_rec": "0"})),
        ("cellsegssda@25%:lambda_rec=0:lambda_adv=1e-4", MethodSpec("cellsegssda", "25%", {"lambda_rec": "0", "lambda_adv": "1e-4"})),
    ],
)
def test_method_spec_forms(text: str, spec: MethodSpec) -> None:
    assert MethodSpec.parse(text) == spec


@pytest.mark.parametrize("text", ["", "@10%", "a b", "x@", "x@%", "x@ten%", "x:", "x:a", "x:a=", "x:=1", "x:a=1=2", "x::a=1", "x/y"])
def test_method_spec_errors(text: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"'{text}'")):
        MethodSpec.parse(text)


def test_written_toml_holds_no_absent_option() -> None:
    values = tomllib.loads(Config().to_toml())
    assert "source" not in values
    assert values["crop"] == 256


def test_preset_best_is_what_is_done_by_default() -> None:
    assert with_options(Config(), preset_options("best")) == Config()
