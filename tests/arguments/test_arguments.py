import dataclasses
import inspect
import re
from datetime import date
from typing import get_args, get_type_hints

import pytest
import yaml

from rd_hf.arguments.commands import (
    EvaluationArguments,
    ExportArguments,
    InfoArguments,
    PredictionArguments,
    PushArguments,
)
from rd_hf.arguments.config import arguments_from, config_text, read_config
from rd_hf.arguments.distillation import OF_MASKS, DistillationArguments
from rd_hf.arguments.options import UNGROUPED, option, options, public_values
from rd_hf.arguments.parser import OptionParser
from rd_hf.arguments.values import ArgumentError, listed
from rd_hf.arguments.yaml_text import load_yaml, read_yaml
from rd_hf.cli import main, parse_distillation
from rd_hf.comparison.arguments import ComparisonArguments
from rd_hf.exports.run import export
from rd_hf.hub.push import push
from rd_hf.inference.evaluation import evaluate
from rd_hf.inference.prediction import predict

NEEDED = {"teacher": "t", "student": "s", "dataset": "d"}
DISTILL = options(DistillationArguments)


def test_flags_override_the_configuration_file_which_overrides_defaults(tmp_path):
    config = tmp_path / "job.yaml"
    config.write_text(
        "teacher: t\nstudent: {model_type: resnet, depths: [1, 1]}\ndataset: d\nlearning_rate: 2e-3\nshots: 20\n"
    )
    arguments = parse_distillation(["--config", str(config), "--shots", "10", "--use_unlabeled"])
    assert arguments.learning_rate == 2e-3  # YAML reads 2e-3 as text
    assert arguments.shots == 10 and arguments.use_unlabeled is True
    assert arguments.student == {"model_type": "resnet", "depths": [1, 1]}
    assert arguments.method == "rd"


def test_an_inline_student_can_be_typed_on_the_command_line():
    arguments = parse_distillation(
        ["--teacher", "t", "--dataset", "d", "--student", "{model_type: vit, hidden_size: 32}"]
    )
    assert arguments.student == {"model_type": "vit", "hidden_size": 32}


@pytest.mark.parametrize(
    ("words", "model", "as_json"),
    [
        ("runs/x --json", "runs/x", True),
        ("--json runs/x", "runs/x", True),
        ("--json false runs/x", "runs/x", False),
        ("--revision main runs/x", "runs/x", False),
        ("--model runs/x --json", "runs/x", True),
        ("--model=runs/x", "runs/x", False),
    ],
)
def test_a_value_without_its_flag_may_stand_anywhere(words, model, as_json):
    parser = OptionParser(InfoArguments, first="model")
    values, unknown = parser.parse_known_args(words.split())
    assert (values.model, values.json, unknown) == (model, as_json, [])


@pytest.mark.parametrize("words", ["runs/x stray", "stray --model runs/x", "--model=runs/x --json true stray"])
def test_a_second_value_without_a_flag_is_left_over(words):
    values, unknown = OptionParser(InfoArguments, first="model").parse_known_args(words.split())
    assert values.model == "runs/x" and unknown == ["stray"]


@pytest.mark.parametrize("words", ["runs/x --json ture", "--model runs/x --json ture"])
def test_a_switch_is_true_or_false(words, capsys):
    with pytest.raises(SystemExit):
        OptionParser(InfoArguments, first="model").parse_known_args(words.split())
    assert "expected: got ture" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--learning_rat", "1"], ["--learning-rat=1"]])
def test_an_unknown_flag_is_answered_with_the_nearest(options):
    with pytest.raises(ArgumentError, match="learning_rat`.*Did you mean `learning_rate`"):
        parse_distillation(["--teacher", "t", "--student", "s", "--dataset", "d", *options])


@pytest.mark.parametrize(
    ("other", "own"),
    [("lr", "learning_rate"), ("batch-size", "per_device_train_batch_size"), ("patience", "early_stop")],
)
def test_a_name_of_other_libraries_is_answered_with_ours(other, own):
    with pytest.raises(ArgumentError, match=f"Did you mean `{own}"):
        parse_distillation(["--teacher", "t", "--student", "s", "--dataset", "d", f"--{other}", "1"])


def test_another_method_over_a_saved_run_has_its_own_settings(tmp_path, caplog):
    """A run saves the settings of its method, given or not; they are not those of the method that is typed."""
    needed, config = ["--teacher", "t", "--student", "s", "--dataset", "d"], tmp_path / "config.yaml"
    config.write_text(config_text(parse_distillation([*needed, "--temperature", "7", "--learning_rate", "0.5"])))
    with caplog.at_level("INFO", logger="rd_hf"):
        found = parse_distillation(["--config", str(config), "--method", "drd"])
    expected = parse_distillation([*needed, "--method", "drd", "--learning_rate", "0.5"])
    assert found.to_dict() == expected.to_dict()
    assert "settings of that method are left out: " in caplog.text and "temperature 7.0" in caplog.text
    assert parse_distillation(["--config", str(config)]).temperature == 7.0  # the same method
    typed = parse_distillation(["--config", str(config), "--method", "drd", "--temperature", "3"])
    assert typed.temperature == 3.0


def test_an_unknown_key_is_answered_with_the_nearest_and_the_file(tmp_path):
    config = tmp_path / "job.yaml"
    config.write_text("studnt: s\n")
    with pytest.raises(ArgumentError, match="studnt.*job.yaml.*`student`"):
        read_config(config)
    with pytest.raises(ArgumentError, match="use_unlabelled.*`use_unlabeled`"):
        arguments_from({**NEEDED, "use_unlabelled": True})


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [\n"])
def test_a_file_that_is_no_mapping_is_named(tmp_path, content):
    config = tmp_path / "job.yaml"
    config.write_text(content)
    with pytest.raises(ArgumentError, match="job.yaml"):
        read_config(config)
    with pytest.raises(ArgumentError, match="missing.yaml"):
        read_config(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"shots": 0}, "shots"),
        ({"max_steps": 0}, "max_steps` is 0.*-1"),
        ({"method": "kd"}, "method.*rd, drd, ce"),
        ({"label_fraction": 1.5}, "label_fraction"),
        ({"shots": 5, "label_fraction": 0.1}, "shots.*label_fraction"),
        ({"bf16": True, "fp16": True}, "bf16.*fp16"),
        ({"teacher": None}, "teacher"),
        ({"dataset": None}, "dataset"),
        ({"resume": True, "overwrite_output_dir": True}, "resume.*overwrite_output_dir"),
        ({"weight_decay": -1.0}, "weight_decay` is -1.0.*at least 0"),
        ({"weight_decay": float("nan")}, "weight_decay.*at least 0"),
        ({"learning_rate": float("inf")}, "`learning_rate` is inf; it must be a finite number"),
        ({"label_smoothing": 1.0}, "label_smoothing` is 1.0.*at least 0 and below 1"),
        ({"warmup_ratio": 1.5}, "warmup_ratio` is 1.5.*at most 1"),
        ({"test_fraction": 0}, "test_fraction.*above 0 and below 1"),
        ({"num_views": "many"}, "num_views.*endless"),
        ({"teacher": ["a", "b"]}, "`teacher` is .*must be one text"),
        ({"student": "[resnet]"}, "`student` is .*must be one text, or a mapping"),
        ({"output_dir": {"a": 1}}, "`output_dir` is .*must be one text"),
        ({"label_column": ["a", True]}, "`label_column` is true, but it must be text"),
        ({"num_views": 0}, "num_views"),
        ({"cache_dtype": "int4"}, "cache_dtype.*bfloat16"),
        ({"cache": False, "verify_cache": 5}, "verify_cache"),
        ({"task": "depth"}, "task.*auto, classification, segmentation"),
        ({"mask_colors": "red"}, "`mask_colors` is 'red'; it must be a mapping of colours"),
        ({"mask_colors": {"red": "a"}}, "the colour 'red'; it must be written as #ff0000 or as 255,0,0"),
        ({"mask_colors": {"0,0,256": "a"}}, "the colour '0,0,256'"),
        ({"label_names": "lesion"}, "`label_names` is 'lesion'; it must be a list"),
        ({"label_names": ["a", "a"]}, "`label_names` is .*distinct"),
        ({"label_names": {"a": 0}}, "`label_names` is .*mapping of mask values to names"),
        ({"label_names": ["a"], "mask_colors": {"#ff0000": "a"}}, "`mask_colors` and `label_names`"),
        ({"label_names": ["a", "b"], "task": "classification"}, "`label_names` are of masks"),
        ({"label_column": "x", "task": "segmentation"}, "`label_column` is of classes.*`mask_column`"),
        ({"spacing": "1,0,1"}, "`spacing` is '1,0,1'.*positive number of millimetres"),
        ({"spacing": [1, 2]}, "`spacing` is .*such as 1,1,2.5"),
        ({"crop_size": "96,nan,4"}, "`crop_size` is .*whole number of voxels"),
        ({"volume_size": 0.5}, "`volume_size` is .*whole number of voxels"),
        ({"intensity_window": "40,-40"}, "`intensity_window` is .*lung, bone, soft, brain"),
        ({"intensity_window": "liver"}, "`intensity_window` is 'liver'"),
        ({"dimensions": 4}, "`dimensions` is '4'; it must be one of auto, 2, 3"),
        ({"dimensions": 2, "slice_axis": "coronal"}, "`slice_axis` is only for volumes"),
        ({"dimensions": 3, "student_image_size": 64}, "`student_image_size` is only for images.*`crop_size`"),
        ({"dimensions": "3", "dicom_window": "minmax"}, "`dicom_window` is only for images.*`intensity_window`"),
    ],
)
def test_a_wrong_value_names_its_argument(changes, named):
    with pytest.raises(ArgumentError, match=named):
        DistillationArguments(**(NEEDED | changes))


def test_names_and_colours_of_masks_as_texts_and_as_yaml(tmp_path):
    lines = "label_names: {0: background, 255: '01'}\nmask_column: 5\n"
    (tmp_path / "job.yaml").write_text("teacher: t\nstudent: s\ndataset: d\n" + lines)
    read = parse_distillation(["--config", str(tmp_path / "job.yaml")])
    assert read.label_names == {"0": "background", "255": "01"} and read.mask_column == "5"
    needed = ["--teacher", "t", "--student", "s", "--dataset", "d"]
    typed = parse_distillation([*needed, "--label_names", "[no, 01]", "--task", "segmentation"])
    assert typed.label_names == ["no", "01"]
    colors = parse_distillation([*needed, "--mask_colors", '{"#FF0000": no, "0,255,0": b}']).mask_colors
    assert colors == {"#ff0000": "no", "#00ff00": "b"}
    (tmp_path / "again.yaml").write_text(config_text(read))
    assert arguments_from(read_config(tmp_path / "again.yaml")) == read
    evaluated = EvaluationArguments(model="m", dataset="d", mask_colors="{'1,2,3': a}")
    assert evaluated.mask_colors == {"#010203": "a"}


def test_voxels_and_millimetres_as_texts_lists_and_numbers(tmp_path):
    lines = "spacing: [1, 1, 2.5]\ncrop_size: 96\nintensity_window: [-160, 240]\ndimensions: 3\n"
    (tmp_path / "job.yaml").write_text("teacher: t\nstudent: s\ndataset: d\n" + lines)
    read = parse_distillation(["--config", str(tmp_path / "job.yaml")])
    assert (read.grid_spacing, read.sides_of_crop, read.intensities) == ((1, 1, 2.5), (96, 96, 96), (-160, 240))
    needed = ["--teacher", "t", "--student", "s", "--dataset", "d", "--dimensions", "3"]
    texts = ["--spacing", "1,1,2.5", "--crop_size", "96", "--intensity_window", "-160,240"]
    assert parse_distillation(needed + texts) == read
    (tmp_path / "again.yaml").write_text(config_text(read))
    assert arguments_from(read_config(tmp_path / "again.yaml")) == read
    assert DistillationArguments(**NEEDED, volume_size=(64, 48, 32)).sides_of_volume == (64, 48, 32)


@pytest.mark.parametrize(
    ("name", "window"), [("lung", (-1350, 150)), ("bone", (-500, 1300)), ("soft", (-160, 240)), ("brain", (0, 80))]
)
def test_a_window_by_its_name(name, window):
    assert DistillationArguments(**NEEDED, intensity_window=name).intensities == window
    typed = parse_distillation(["--teacher", "t", "--student", "s", "--dataset", "d", "--intensity_window", name])
    assert typed.intensities == window


def test_a_written_configuration_gives_the_same_arguments_again(tmp_path):
    arguments = DistillationArguments(**NEEDED, method="drd", shots=20, use_unlabeled=True, label_column=["a", "b"])
    (tmp_path / "config.yaml").write_text(config_text(arguments))
    assert arguments_from(read_config(tmp_path / "config.yaml")) == arguments
    assert set(yaml.safe_load((tmp_path / "config.yaml").read_text())) == set(arguments.to_dict())


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("output_dir: 20240115", "20240115"), ("output_dir: 0123", "0123"), ("output_dir: 2024-01-15", "2024-01-15"),
        ("output_dir: 12:30", "12:30"), ("output_dir: 1_000", "1_000"), ("output_dir: 1.50", "1.50"),
        ("output_dir: ~", None), ("output_dir: 'no'", "no"), ("output_dir: 0x1F", "0x1F"), ("teacher: 123", "123"),
        ("dataset: 007", "007"), ("student: 18", "18"), ("max_run_time: 12:00:00", "12:00:00"),
        ("label_column: [01, no, b]", ["01", "no", "b"]), ("label_column: '[01, no, b]'", ["01", "no", "b"]),
        ("student: {model_type: resnet, depths: [1_0]}", {"model_type": "resnet", "depths": [10]}),
        ("seed: 010", 8), ("num_views: 3", 3), ("learning_rate: 1_0", 10.0), ("augment: no", False),
    ],
)  # fmt: skip
def test_a_number_that_stands_for_a_name_is_the_text_as_it_is_written(tmp_path, line, value):
    (tmp_path / "job.yaml").write_text(line)
    values = NEEDED | read_config(tmp_path / "job.yaml")
    name = line.split(":")[0]
    assert getattr(DistillationArguments(**values), name) == value


def test_numbers_and_dates_given_in_python_are_names_too():
    arguments = DistillationArguments(**NEEDED | {"teacher": 123, "output_dir": date(2024, 1, 15)}, max_run_time=1.5)
    assert (arguments.teacher, arguments.output_dir, arguments.seconds_to_run()) == ("123", "2024-01-15", 5400)


@pytest.mark.parametrize("line", ["license: no", "output_dir: on", "teacher: yes", "group_column: true"])
def test_a_truth_value_for_a_name_is_refused_with_its_argument(tmp_path, line):
    (tmp_path / "job.yaml").write_text(line)
    with pytest.raises(ArgumentError, match=f"`{line.split(':')[0]}` is (true|false), but it must be text.*quotes"):
        DistillationArguments(**NEEDED | read_config(tmp_path / "job.yaml"))


def test_names_in_a_comparison_are_read_as_they_are_written(tmp_path):
    lines = """
        data: {2024-01-15: {dataset: 007, student: {model_type: resnet, hidden_sizes: [8]}}, no: {dataset: x}}
        methods: [ce, {name: 01, method: rd, student_stages: [1, 2]}]
        teachers: {123: {teacher: 0123}}
        shots: [10, all]
        output_dir: 20240115
        reference: 01
        """
    (tmp_path / "compare.yaml").write_text(lines)
    found = ComparisonArguments(**read_config(tmp_path / "compare.yaml", ComparisonArguments))
    assert found.data == {
        "2024-01-15": {"dataset": "007", "student": {"model_type": "resnet", "hidden_sizes": [8]}},
        "no": {"dataset": "x"},
    }
    assert found.methods[1] == {"name": "01", "method": "rd", "student_stages": ["1", "2"]}
    assert found.teachers == {"123": {"teacher": "0123"}} and found.shots == [10, "all"]
    assert (found.output_dir, found.reference) == ("20240115", "01")
    typed = ComparisonArguments(data="{007: {dataset: 010}}", output_dir="x", teachers="{1: {teacher: 2}}")
    assert typed.data == {"007": {"dataset": "010"}} and typed.teachers == {"1": {"teacher": "2"}}


def test_a_configuration_that_is_no_text_is_named(tmp_path):
    (tmp_path / "job.yaml").write_bytes(b"output_dir: caf\xe9\n")
    with pytest.raises(ArgumentError, match="job.yaml is not a text file in UTF-8"):
        read_config(tmp_path / "job.yaml")


@pytest.mark.parametrize(
    ("options", "views", "cache"),
    [([], 16, True), (["--num_views", "3", "--no_cache"], 3, False), (["--num_views", "endless"], None, True)],
)
def test_views_are_a_number_or_endless_on_the_command_line_and_in_yaml(tmp_path, options, views, cache):
    arguments = parse_distillation(["--teacher", "t", "--student", "s", "--dataset", "d", *options])
    assert (arguments.num_views, arguments.cache) == (views, cache)
    (tmp_path / "config.yaml").write_text(config_text(arguments))
    assert arguments_from(read_config(tmp_path / "config.yaml")) == arguments


@pytest.mark.parametrize("name", DISTILL)
def test_every_argument_says_all(name):
    field, stated = DistillationArguments.__dataclass_fields__[name], DISTILL[name]
    annotation = get_type_hints(DistillationArguments)[name]
    kinds = {annotation, *get_args(annotation)}
    assert len(field.metadata["help"]) > 10
    assert field.metadata["group"] == stated.group != UNGROUPED
    assert (stated.text is not None) == (str in kinds), "a text says what it stands for"
    assert bool(stated.range) == bool({int, float} & kinds), "a number has a range"
    assert not (stated.in_card and stated.text in ("model", "data", "folder")), "a path has no place in a card"


@pytest.mark.parametrize(
    ("of_volumes", "of_masks", "expected"),
    [(False, False, (32, "pooled")), (False, True, (32, "pooled")), (True, False, (4, "pooled")),
     (True, True, (4, "positions"))],
)  # fmt: skip
def test_the_data_choose_the_defaults_of_what_is_not_given(of_volumes, of_masks, expected):
    given = DistillationArguments(teacher="t", student="s", dataset="d", output_dir="o")
    found = given.with_defaults(of_volumes, of_masks)
    assert (found.per_device_train_batch_size, found.cka_features) == expected
    stated = dataclasses.replace(given, cka_features="flattened", per_device_train_batch_size=3)
    kept = stated.with_defaults(of_volumes, of_masks)
    assert (kept.per_device_train_batch_size, kept.cka_features) == (3, "flattened")


def test_rd_plus_leaves_out_of_masks_what_they_do_not_have():
    given = DistillationArguments(
        teacher="t", student="s", dataset="d", output_dir="o", method="rd_plus", ensemble_share=0.3
    )
    of_masks, of_classes = (given.with_defaults(False, masks) for masks in (True, False))
    assert (of_masks.teacher_features, of_masks.target_views, of_masks.divergence) == ("stage", "one", "kl")
    assert (of_classes.teacher_features, of_classes.target_views, of_classes.divergence) == ("all", "mean", "dist")
    assert of_masks.ensemble_share == of_classes.ensemble_share == 0.3  # as it is given, and refused later
    assert of_masks.with_defaults(False, True) == of_masks


def test_names_with_a_comma_are_told_apart():
    assert listed(["a", "b c"]) == "a, b c" and listed(["a, b", "c"]) == "'a, b', 'c'"


@pytest.mark.parametrize("name", OF_MASKS["rd_plus"])
def test_a_given_value_stays_where_it_is_the_default_of_the_method(name):
    """Masks have defaults of their own, which take the place only of what nobody gave."""
    base = {"teacher": "t", "student": "s", "dataset": "d", "output_dir": "o", "method": "rd_plus"}
    of_method = getattr(DistillationArguments(**base), name)
    given = DistillationArguments(**base, **{name: of_method}).with_values(seed=5)
    assert of_method != OF_MASKS["rd_plus"][name]
    of_masks = given.with_defaults(False, True)
    expected = OF_MASKS["rd_plus"] | ({"temperature": 1.0} if name == "divergence" else {}) | {name: of_method}
    assert {key: getattr(of_masks, key) for key in OF_MASKS["rd_plus"]} == expected  # DIST has a temperature of 1
    assert (of_masks.seed, of_masks.kl_weight_end) == (5, 1.0)


def test_facts_that_nobody_states_are_the_careful_ones():
    stated = option(None, "a text that may be a path", text="folder").metadata["option"]
    assert not stated.in_card and stated.affects_result
    assert (stated.resume, stated.compare) == ("refused", "data")


@pytest.mark.parametrize("kind", [DistillationArguments, EvaluationArguments, ExportArguments, ComparisonArguments])
def test_help_lists_every_option_once_under_its_group(kind):
    sections = re.split(r"\n(?=[a-z ]+:\n)", OptionParser(kind, prog="rd-hf").format_help())
    for name, stated in options(kind).items():
        under = [text.split(":")[0] for text in sections if re.search(rf"^  --{name} ", text, re.MULTILINE)]
        assert under == [stated.group], name
        assert f"--{name.replace('_', '-')}" == f"--{name}" or f"--{name.replace('_', '-')}" not in "".join(sections)


def test_a_name_may_be_written_with_hyphens():
    arguments = parse_distillation(["--teacher=t", "--student=s", "--dataset=d", "--no-cache", "--max-steps", "7"])
    assert (arguments.cache, arguments.max_steps) == (False, 7)


@pytest.mark.parametrize(
    ("kind", "function", "of_the_terminal"),
    [
        (EvaluationArguments, evaluate, []),
        (PredictionArguments, predict, ["top_k", "json"]),
        (ExportArguments, export, []),
        (PushArguments, push, []),
    ],
)
def test_terminal_and_python_take_the_same(kind, function, of_the_terminal):
    taken = inspect.signature(function).parameters
    fields = {f.name: f.default for f in dataclasses.fields(kind) if f.name not in of_the_terminal}
    assert set(taken) == set(fields)
    for name, default in fields.items():
        assert taken[name].default == (inspect.Parameter.empty if default is dataclasses.MISSING else default), name


def test_trackers_get_no_path(tmp_path):
    (tmp_path / "data.npz").touch()
    arguments = DistillationArguments(
        teacher="me/teacher", student=str(tmp_path), dataset=str(tmp_path / "data.npz"), unlabeled_dataset="me/more",
        output_dir=str(tmp_path / "run"), cache_dir=str(tmp_path / "not yet there"), image_column="scan",
    )  # fmt: skip
    shown = public_values(arguments)
    assert str(tmp_path) not in str(shown)
    assert (shown["teacher"], shown["unlabeled_dataset"], shown["image_column"]) == ("me/teacher", "me/more", "scan")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("evaluate --model x --dataset y --batch_size 0", "batch_size"),
        ("predict --model x --images y --top_k -1", "top_k"),
        ("students --image_size 0", "image_size"),
        ("export --model x --output_dir y --batch_size 0", "batch_size"),
        ("cache clear --older_than_days -1", "older_than_days"),
    ],
)
def test_numbers_of_every_command_have_a_range(line, name, capsys):
    assert main(line.split()) == 2
    assert f"`{name}` is" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["1e-12", "1.5e-5", "-2E3"])
def test_numbers_as_json_and_python_write_them_are_numbers(tmp_path, written):
    student = f'{{"model_type": "vit", "layer_norm_eps": {written}}}'
    assert arguments_from({"dataset": "d", "method": "ce", "student": student}).student["layer_norm_eps"] == float(
        written
    )
    (tmp_path / "run.yaml").write_text(f"student: {{model_type: vit, layer_norm_eps: {written}}}\nlabel_column: 1e5\n")
    assert read_config(tmp_path / "run.yaml") == {
        "student": {"model_type": "vit", "layer_norm_eps": float(written)}, "label_column": "1e5",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_model_in_hand_is_no_name_of_one(name):
    with pytest.raises(ArgumentError, match=f"`{name}` is a object: give a Hub id or a folder.*distill_from_models"):
        arguments_from({**NEEDED, name: object()})


def test_a_colour_is_named_once():
    colours = {"#ff0000": "a", "#FF0000": "b"}
    with pytest.raises(ArgumentError, match="`mask_colors` names the colour #ff0000 twice"):
        arguments_from({**NEEDED, "task": "segmentation", "mask_colors": colours})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rate: 0.1\nseed: 3\nlearning_rate: 0.2\n", "`learning_rate` is given twice, in lines 1 and 3"),
        ("student:\n  model_type: resnet\n  model_type: vit\n", "`model_type` is given twice, in lines 2 and 3"),
        ("mask_colors: {'#ff0000': a, '#ff0000': b}\n", "`#ff0000` is given twice, in line 1: give it once"),
    ],
)
def test_a_key_that_is_given_twice_is_named_with_its_lines(tmp_path, content, message):
    config = tmp_path / "job.yaml"
    config.write_text(content)
    with pytest.raises(ArgumentError, match=f"job.yaml is not valid YAML: {message}"):
        read_config(config)


def test_a_key_that_is_typed_twice_is_named():
    for name, text in (("student", "{model_type: a, model_type: b}"), ("label_names", "{0: none, 0: lesion}")):
        with pytest.raises(ArgumentError, match="not a valid YAML value: .*is given twice, in line 1: give it once"):
            arguments_from(NEEDED | {name: text})
    with pytest.raises(ArgumentError, match="`data` is not a valid YAML value: .*`x` is given twice"):
        ComparisonArguments(data="{x: {dataset: a}, x: {dataset: b}}", output_dir="o")


def test_merged_keys_may_be_given_again(tmp_path):
    """Also where a mapping that merges another is merged before it is read itself."""
    text = "a: {b: &x {c: 1}, d: &y {<<: *x, c: 2, 1: e}}\nf: {<<: *y, c: 3}\ng: {<<: *x, <<: *y}\n"
    assert read_yaml(text)["f"] == {"c": 3, 1: "e"} and read_yaml(text)["a"]["d"] == {"c": 2, 1: "e"}
    assert load_yaml(text, set())["g"] == read_yaml(text)["g"]
