import pytest
import yaml

from rd_hf.arguments.distillation import DistillationArguments, arguments_from, read_config, write_config
from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import parse_distillation

NEEDED = {"teacher": "t", "student": "s", "dataset": "d"}


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


@pytest.mark.parametrize("options", [["--learning_rat", "1"], ["--learning-rat=1"]])
def test_an_unknown_flag_is_answered_with_the_nearest(options):
    with pytest.raises(ArgumentError, match="learning_rat`.*Did you mean `learning_rate`"):
        parse_distillation(["--teacher", "t", "--student", "s", "--dataset", "d", *options])


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
        ({"method": "kd"}, "method.*rd, drd, ce"),
        ({"label_fraction": 1.5}, "label_fraction"),
        ({"shots": 5, "label_fraction": 0.1}, "shots.*label_fraction"),
        ({"bf16": True, "fp16": True}, "bf16.*fp16"),
        ({"use_unlabeled": True}, "use_unlabeled.*shots"),
        ({"teacher": None}, "teacher"),
        ({"dataset": None}, "dataset"),
        ({"resume": True, "overwrite_output_dir": True}, "resume.*overwrite_output_dir"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"num_views": "many"}, "num_views.*endless"),
        ({"num_views": 0}, "num_views"),
        ({"cache_dtype": "int8"}, "cache_dtype.*bfloat16"),
        ({"cache": False, "verify_cache": 5}, "verify_cache"),
    ],
)
def test_a_wrong_value_names_its_argument(changes, named):
    with pytest.raises(ArgumentError, match=named):
        DistillationArguments(**(NEEDED | changes))


def test_a_written_configuration_gives_the_same_arguments_again(tmp_path):
    arguments = DistillationArguments(**NEEDED, method="drd", shots=20, use_unlabeled=True, label_column=["a", "b"])
    write_config(arguments, tmp_path / "config.yaml")
    assert arguments_from(read_config(tmp_path / "config.yaml")) == arguments
    assert set(yaml.safe_load((tmp_path / "config.yaml").read_text())) == set(arguments.to_dict())


@pytest.mark.parametrize(
    ("options", "views", "cache"),
    [([], 16, True), (["--num_views", "3", "--no_cache"], 3, False), (["--num_views", "endless"], None, True)],
)
def test_views_are_a_number_or_endless_on_the_command_line_and_in_yaml(tmp_path, options, views, cache):
    arguments = parse_distillation(["--teacher", "t", "--student", "s", "--dataset", "d", *options])
    assert (arguments.num_views, arguments.cache) == (views, cache)
    write_config(arguments, tmp_path / "config.yaml")
    assert arguments_from(read_config(tmp_path / "config.yaml")) == arguments


def test_every_argument_is_explained():
    for name, field in DistillationArguments.__dataclass_fields__.items():
        assert len(field.metadata["help"]) > 10, name
