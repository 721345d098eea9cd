"""Students and reprogrammed teachers for masks: skips, norms of hybrid passes, round trips."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from dense_models import MODELS, SIDE
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    ResNetConfig,
    ViTConfig,
)

from rd_hf.models.backbone import Backbone
from rd_hf.models.configuration_monai import MonaiNetConfig
from rd_hf.models.configuration_rd import RDTeacherConfig
from rd_hf.models.features import StageError, StageFeature
from rd_hf.models.modeling_rd_segmentation import RDStudentForSemanticSegmentation
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification
from rd_hf.models.modeling_rd_teacher import RDTeacherForImageClassification
from rd_hf.models.modeling_rd_teacher_segmentation import RDTeacherForSemanticSegmentation
from rd_hf.models.tape import without_running_statistics

TOWER = ViTConfig(
    hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
)
SMALL = {"channels": [4, 6, 8, 10], "strides": [2, 2, 2]}
NETWORKS = {
    "UNet": SMALL,
    "UNet with batch norm": SMALL | {"norm": "batch"},
    "BasicUNet": {"features": [4, 4, 6, 8, 10, 4]},
    "SegResNet": {"init_filters": 8, "blocks_down": [1, 1, 1, 1]},
    "UNETR": {"feature_size": 4, "hidden_size": 16, "mlp_dim": 16, "num_heads": 2},
}
BY_NAME = {dense.name: dense for dense in MODELS}
CHAINS = ("MobileNetV2", "MobileViT")  # their heads read the last stage alone
NAMES = ["UNet", "UNet with batch norm", "BasicUNet", "SegResNet", "Segformer", "UperNet+ResNet", "DPT", *CHAINS]
NORMS = "UNet with batch norm"
every_student = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def student(name: str) -> RDStudentForSemanticSegmentation:
    torch.manual_seed(0)
    if name in NETWORKS:
        config = MonaiNetConfig(
            network=name.split()[0], image_size=SIDE[2], arguments=NETWORKS[name], id2label={0: "none", 1: "a", 2: "b"}
        )
        model = AutoModelForSemanticSegmentation.from_config(config).eval()
    else:
        model = BY_NAME[name].build()
    return RDStudentForSemanticSegmentation.from_classifier(model, image_size=SIDE[2])


@functools.cache
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(AutoModel.from_config(TOWER), {"id": "local", "revision": None, "sha256": "0"})


def teacher(name: str, stages: str = "all", skips: str = "own", **options) -> RDTeacherForSemanticSegmentation:
    tower = backbone()  # before the student, which seeds the projectors too
    return RDTeacherForSemanticSegmentation.from_parts(
        student(name), tower, 32, stages, hidden_channels=8, skips=skips, **options
    ).eval()


def pixels(seed: int, side: int = SIDE[2]) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


def features(model: RDTeacherForSemanticSegmentation) -> list[StageFeature]:
    model.tap(backbone())
    return backbone().extract(pixels(0, 32))


def run(model: RDTeacherForSemanticSegmentation, seed: int = 1):
    with torch.no_grad():
        return model(student_pixel_values=pixels(seed), teacher_features=features(model))


@every_student
def test_a_students_logits_are_the_wrapped_segmenters(name):
    model = student(name)
    output = model(pixels(1), labels=torch.randint(0, 3, (2, 64, 64)))
    own = model.model(pixel_values=pixels(1))
    assert type(output) is type(own) and torch.equal(output.logits, own.logits)
    assert output.logits.shape[:2] == (2, 3) and output.logits.ndim == 4 and output.loss.isfinite()
    with pytest.raises(ValueError, match=r"\(2, 1, 64, 64\).*3, rows, columns"):
        model(pixels(1)[:, :1])


@pytest.mark.parametrize("name", ["Segformer", "UNet"])
def test_a_student_is_saved_and_loaded_with_the_code_that_it_needs(name, tmp_path):
    model = student(name)
    model.save_pretrained(tmp_path)
    code = {"configuration_rd", "modeling_rd_segmentation", "modeling_rd_student"}
    if name == "UNet":
        code |= {"configuration_monai", "configuration_rd_monai", "modeling_monai"}
    assert {path.stem for path in tmp_path.glob("*.py")} == code
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert type(loaded) is RDStudentForSemanticSegmentation and loaded.config.id2label == model.config.id2label
    torch.testing.assert_close(loaded(pixels(1)).logits, model(pixels(1)).logits)


@every_student
@pytest.mark.parametrize("skips", ["own", "reprogrammed"])
@pytest.mark.parametrize("stages", ["last", "all"])
def test_hybrid_logits_have_a_gradient_for_every_projector(name, skips, stages):
    model = teacher(name, stages, skips)
    output = model(student_pixel_values=pixels(1), teacher_features=features(model))
    count = len(model.projectors)
    assert len(output.student_features) == len(output.reprogrammed_features) == count
    assert len(output.hybrid_logits) == (1 if stages == "last" else count)
    if stages == "last":
        assert (count > 1) == (skips == "reprogrammed" and name not in CHAINS)
    for number, logits in enumerate(output.hybrid_logits):
        injected = range(count) if stages == "last" else range(number + 1) if skips == "reprogrammed" else [number]
        weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
        model.zero_grad()
        (logits * weights).sum().backward(retain_graph=True)
        reached = [any(p.grad is not None and bool(p.grad.any()) for p in one.parameters()) for one in model.projectors]
        read = [number] if name in CHAINS else injected  # a chain's last injected feature hides the others
        assert reached == [index in read for index in range(count)]


@every_student
@pytest.mark.parametrize("stages", ["last", "all"])
def test_reprogrammed_skips_leave_nothing_of_the_students_image(name, stages):
    model = teacher(name, stages, "reprogrammed")
    one, other = run(model, 1), run(model, 2)
    assert not torch.equal(one.student_logits, other.student_logits)
    for logits, same in zip(one.hybrid_logits, other.hybrid_logits, strict=True):
        torch.testing.assert_close(logits, same)
    assert not model.needs_student_pixels
    with torch.no_grad():
        alone = model(teacher_features=features(model))
    torch.testing.assert_close(alone.logits, one.logits)
    assert alone.student_logits is None and len(alone.reprogrammed_features) == len(model.projectors)


@every_student
def test_own_skips_depend_on_the_students_image_and_refuse_to_do_without(name):
    model = teacher(name, "last")
    one, other = run(model, 1), run(model, 2)
    assert model.needs_student_pixels == (name not in CHAINS)
    assert torch.allclose(one.logits, other.logits, atol=1e-6) == (name in CHAINS)
    if model.needs_student_pixels:
        with pytest.raises(StageError, match=r"skip connections.*Pass student_pixel_values"):
            model(teacher_features=features(model))


def test_a_segmenter_that_reads_its_image_again_always_needs_it():
    model = teacher("UNETR", "last", "reprogrammed")
    state = torch.get_rng_state()
    assert model.train().needs_student_pixels and model.student.training
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(StageError, match="or the image itself"):
        model.eval()(teacher_features=features(model))


class Given(nn.Module):
    """In place of a projector: gives a feature of the student's own."""

    def __init__(self, feature: StageFeature, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.feature, self.input_grid = feature, grid

    def forward(self, feature: StageFeature) -> StageFeature:
        return self.feature


@every_student
@pytest.mark.parametrize("skips", ["own", "reprogrammed"])
def test_the_students_own_features_give_its_own_logits(name, skips):
    model = teacher(name, "all", skips)
    own = run(model).student_features
    model.projectors = nn.ModuleList(
        Given(feature, projector.input_grid) for feature, projector in zip(own, model.projectors, strict=True)
    )
    output = run(model)
    assert all(torch.equal(logits, output.student_logits) for logits in output.hybrid_logits)


@pytest.mark.parametrize("skips", ["own", "reprogrammed"])
@pytest.mark.parametrize("name", ["UNet", "Segformer"])
def test_rd_is_the_last_pass_of_drd(name, skips):
    deep, last = teacher(name, "all", skips), teacher(name, "last", skips)
    last.student.load_state_dict(deep.student.state_dict())
    for projector, given in zip(last.projectors, deep.projectors[-len(last.projectors) :], strict=True):
        projector.load_state_dict(given.state_dict())
    assert torch.equal(run(deep).logits, run(last).logits)
    stage = [deep.student_stages[-1].name]
    one = teacher(name, "all", skips, student_stages=stage)
    other = teacher(name, "last", skips, student_stages=stage)
    assert torch.equal(run(one).logits, run(other).logits) and len(run(one).hybrid_logits) == 1


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize(("skips", "norms"), [("own", "own"), ("reprogrammed", "own"), ("reprogrammed", "student")])
def test_hybrid_passes_move_their_own_statistics_only(skips, norms):
    model = teacher(NORMS, "all", skips, hybrid_norms=norms)
    alone = student(NORMS).train()
    alone(pixels(1))
    before = [statistics(one) for one in model.hybrid_statistics]
    assert len(before) == (3 if norms == "own" else 0)
    run(model.train())
    of_student = statistics(model.student)
    assert of_student and all(torch.equal(value, of_student[name]) for name, value in statistics(alone).items())
    moved = [
        {name for name, value in statistics(one).items() if not torch.equal(value, old[name])}
        for one, old in zip(model.hybrid_statistics, before, strict=True)
    ]
    assert all(moved)
    norms_of_pass = [{name.rsplit("_", 1)[1] for name in names} for names in moved]
    # what is replayed, the encoder in front of the first injected stage, is not normalised again
    if skips == "own":
        assert all(deep < shallow for shallow, deep in pairwise(norms_of_pass))


def test_without_running_statistics_neither_those_of_the_student_nor_of_hybrid_passes_move():
    model = teacher(NORMS, "all", "reprogrammed").train()
    before, usual = statistics(model), run(model)
    model.load_state_dict(model.state_dict() | before)
    with without_running_statistics(model):
        found = run(model)
    assert all(torch.equal(value, before[name]) for name, value in statistics(model).items())
    assert all(torch.equal(*pair) for pair in zip(found.hybrid_logits, usual.hybrid_logits, strict=True))
    run(model)
    assert any(not torch.equal(value, before[name]) for name, value in statistics(model).items())


def test_an_instance_norm_that_tracks_statistics_leaves_them_too():
    norm, values = nn.InstanceNorm2d(3, track_running_stats=True), torch.randn(2, 3, 4, 4)
    before = statistics(norm)
    with without_running_statistics(norm):
        found = norm(values)
    assert all(torch.equal(value, before[name]) for name, value in statistics(norm).items())
    torch.testing.assert_close(found, nn.functional.instance_norm(values))
    norm(values)
    assert not torch.equal(norm.running_mean, before["running_mean"])


def test_in_eval_mode_a_hybrid_pass_uses_its_own_statistics():
    model = teacher(NORMS, "all", "reprogrammed")
    before = run(model)
    with torch.no_grad():
        for buffer in model.hybrid_statistics[1].buffers():
            buffer.add_(1)
    after = run(model)
    changed = [not torch.equal(*pair) for pair in zip(before.hybrid_logits, after.hybrid_logits, strict=True)]
    assert changed == [False, True, False]
    assert torch.equal(before.student_logits, after.student_logits)
    with torch.no_grad():
        for buffer in model.student.model.buffers():
            buffer.add_(1)
    later = run(model)
    assert not torch.equal(later.student_logits, after.student_logits)
    # nothing in front of the first stage is left of the student, so its statistics do not matter
    assert all(torch.equal(*pair) for pair in zip(later.hybrid_logits, after.hybrid_logits, strict=True))


def test_statistics_start_as_the_students_and_half_precision_stays():
    base = student(NORMS)
    base.train()(pixels(1))
    base.to(torch.bfloat16)
    model = RDTeacherForSemanticSegmentation.from_parts(base, backbone(), 32, hidden_channels=8)
    own = [value for name, value in base.named_buffers() if name.endswith("running_mean")]
    held = [value for name, value in model.hybrid_statistics[0].named_buffers() if name.startswith("running_mean")]
    assert own and all(torch.equal(*pair) and pair[1].dtype == torch.bfloat16 for pair in zip(own, held, strict=True))


def resumed(make: Callable[[], RDTeacherForSemanticSegmentation], interrupted: bool) -> dict[str, Tensor]:
    """The state after four steps, with a new model that takes over the state of the old one after two, or not."""
    model = make().train()
    for step in range(4):
        if interrupted and step == 2:
            state = model.state_dict()
            model = make().train()
            model.load_state_dict(state)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        optimizer.zero_grad()
        output = model(student_pixel_values=pixels(step), teacher_features=features(model))
        sum(logits.square().mean() for logits in (output.student_logits, *output.hybrid_logits)).backward()
        optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_an_interrupted_training_resumes_to_the_bit():
    whole, parts = (resumed(lambda: teacher(NORMS, "all", "reprogrammed"), flag) for flag in (False, True))
    assert any(name.startswith("hybrid_statistics.2.running_var") for name in whole)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize("name", [NORMS, "Segformer"])
@pytest.mark.parametrize("skips", ["own", "reprogrammed"])
def test_a_teacher_is_saved_and_loaded(name, skips, tmp_path):
    model = teacher(name, "last", skips)
    run(model.train())
    model.eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, backbone=backbone())
    assert type(loaded) is RDTeacherForSemanticSegmentation
    assert (loaded.config.skips, loaded.config.hybrid_norms) == (skips, "own")
    assert loaded.config.hybrid_stages == [len(model.projectors) - 1]
    torch.testing.assert_close(run(loaded).logits, run(model).logits)
    labels = torch.randint(0, 3, (2, 40, 50))
    labels[:, :5] = 255
    output = loaded(pixels(0, 32), student_pixel_values=pixels(1), labels=labels)
    resized = F.interpolate(output.logits, (40, 50), mode="bilinear")[:, :, 5:]
    torch.testing.assert_close(output.loss, F.cross_entropy(resized, labels[:, 5:]))


def classifying_teacher() -> RDTeacherForImageClassification:
    torch.manual_seed(0)
    classifier = AutoModelForImageClassification.from_config(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    )
    base = RDStudentForImageClassification.from_classifier(classifier, image_size=32)
    return RDTeacherForImageClassification.from_parts(base, backbone(), 32, "all", hidden_channels=8)


def test_a_teacher_of_classes_is_as_before():
    model = classifying_teacher()
    assert {name.split(".")[0] for name in model.state_dict()} == {"student", "projectors"}
    values = model.config.to_dict()
    for name in ("skips", "hybrid_stages", "hybrid_norms"):
        del values[name]
    config = RDTeacherConfig.from_dict(values)  # as stored by earlier versions
    assert (config.skips, config.hybrid_stages, config.hybrid_norms) == ("own", [0, 1], "student")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("skips", "none", "`skips` is 'none'; it must be 'own' or 'reprogrammed'"),
        ("hybrid_norms", "batch", "`hybrid_norms` is 'batch'; it must be 'student' or 'own'"),
        ("hybrid_stages", [], r"`hybrid_stages` is \[\]; it must be ascending indices of 2 stages"),
        ("hybrid_stages", [2], r"`hybrid_stages` is \[2\]"),
        ("hybrid_stages", [1, 0], r"`hybrid_stages` is \[1, 0\]"),
    ],
)
def test_impossible_values_of_a_config_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        RDTeacherConfig.from_dict(classifying_teacher().config.to_dict() | {field: value})
