"""The reprogrammed teacher: round trips with and without its backbone, and one training step."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    CLIPConfig,
    Dinov2Config,
    MobileNetV2Config,
    ResNetConfig,
    ViTConfig,
)

from rd_hf.models.backbone import Backbone, BackboneError, weights_hash
from rd_hf.models.configuration_rd import RDTeacherConfig
from rd_hf.models.features import StageError
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification
from rd_hf.models.modeling_rd_teacher import RDTeacherForImageClassification

TOWER = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
IMAGE = {"image_size": 32, "patch_size": 8}
TEACHERS = {
    "mobilenet_v2": MobileNetV2Config(depth_multiplier=0.35, image_size=32),
    "vit": ViTConfig(intermediate_size=32, **TOWER, **IMAGE),
    "dinov2": Dinov2Config(**TOWER, **IMAGE),
    "clip": CLIPConfig(
        text_config={"vocab_size": 50, "intermediate_size": 16, **TOWER},
        vision_config={"intermediate_size": 32, **TOWER, **IMAGE},
    ),
}
STUDENTS = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3),
    "vit": ViTConfig(intermediate_size=16, num_labels=3, **{**TOWER, "hidden_size": 8}, **IMAGE),
}
PAIRS = [(teacher, student) for teacher in TEACHERS for student in STUDENTS]


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Folder of each teacher."""
    folders = {}
    for name, config in TEACHERS.items():
        torch.manual_seed(0)
        folders[name] = tmp_path_factory.mktemp(name)
        AutoModel.from_config(config).save_pretrained(folders[name])
    return folders


def parts(towers, teacher="vit", student="resnet", stages="all"):
    backbone = Backbone.from_pretrained(towers[teacher])
    torch.manual_seed(1)
    classifier = AutoModelForImageClassification.from_config(copy.deepcopy(STUDENTS[student]))
    wrapped = RDStudentForImageClassification.from_classifier(classifier, image_size=32)
    model = RDTeacherForImageClassification.from_parts(wrapped, backbone, 32, stages, hidden_channels=8)
    return model, backbone


def pixels(seed: int = 0, count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_round_trips(teacher, student, dtype, towers, tmp_path):
    model, backbone = parts(towers, teacher, student)
    model.attach(backbone)
    model = model.to(dtype).eval()
    logits = model(pixel_values=pixels().to(dtype)).logits
    assert logits.dtype == dtype and logits.shape == (4, 3)

    model.save_pretrained(tmp_path / "without")
    model.save_pretrained(tmp_path / "with", save_backbone=True)
    without = AutoModelForImageClassification.from_pretrained(tmp_path / "without", backbone=towers[teacher])
    including = AutoModelForImageClassification.from_pretrained(tmp_path / "with")

    saved = {name: set(load_file(tmp_path / name / "model.safetensors")) for name in ("without", "with")}
    assert not any(name.startswith("backbone.") for name in saved["without"])
    assert {name.split(".")[0] for name in saved["with"] - saved["without"]} == {"backbone"}
    for loaded in (without, including):
        assert type(loaded) is RDTeacherForImageClassification
        assert {p.dtype for p in loaded.parameters()} == {dtype}
        assert torch.equal(loaded(pixel_values=pixels().to(dtype)).logits, logits)
        assert weights_hash(loaded.backbone) == weights_hash(model.backbone)
        assert not any(p.requires_grad for p in without.backbone.parameters())
    # the place of one's files is nobody's business
    for name in ("without", "with"):
        text = (tmp_path / name / "config.json").read_text()
        assert str(towers[teacher]) not in text and str(tmp_path) not in text
        assert json.loads(text)["backbone_included"] == (name == "with")


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_training_step(teacher, student, towers):
    model, backbone = parts(towers, teacher, student)
    before = {name: value.clone() for name, value in backbone.tower.state_dict().items()}
    digest = backbone.source["sha256"]
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    labels = torch.tensor([0, 1, 2, 0])
    output = model(student_pixel_values=pixels(1), teacher_features=backbone.extract(pixels()), labels=labels)

    count = len(model.projectors)
    assert len(output.hybrid_logits) == len(output.student_features) == len(output.reprogrammed_features) == count
    assert output.logits is output.hybrid_logits[-1]
    assert torch.allclose(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    for own, reprogrammed in zip(output.student_features, output.reprogrammed_features, strict=True):
        assert own.map.shape == reprogrammed.map.shape
        assert (own.prefix is None) == (reprogrammed.prefix is None)

    for index, logits in enumerate(output.hybrid_logits):
        model.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward(retain_graph=True)
        reached = [
            any(p.grad is not None and bool(p.grad.any()) for p in projector.parameters())
            for projector in model.projectors
        ]
        assert reached == [other == index for other in range(count)]
        head = list(model.student.model.parameters())[-1]
        assert bool(head.grad.any())
    model.zero_grad()
    sum(torch.nn.functional.cross_entropy(z, labels) for z in (output.student_logits, *output.hybrid_logits)).backward()
    student_before = copy.deepcopy(model.student.state_dict())
    optimizer.step()

    assert all(p.grad is None for p in backbone.tower.parameters())
    assert all(torch.equal(value, before[name]) for name, value in backbone.tower.state_dict().items())
    assert weights_hash(backbone.tower) == digest == backbone.source["sha256"]
    changed = [not torch.equal(value, student_before[name]) for name, value in model.student.state_dict().items()]
    assert any(changed)


@pytest.mark.parametrize("student", STUDENTS)
def test_student_logits_are_the_students_own(student, towers):
    model, backbone = parts(towers, "vit", student)
    model.eval()
    output = model(student_pixel_values=pixels(1), teacher_features=backbone.extract(pixels()))
    assert torch.equal(output.student_logits, model.student(pixels(1)).logits)


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_rd_is_the_last_stage_of_drd(teacher, student, towers):
    deep, deep_backbone = parts(towers, teacher, student, "all")
    last, last_backbone = parts(towers, teacher, student, "last")
    last.student.load_state_dict(deep.student.state_dict())
    last.projectors[0].load_state_dict(deep.projectors[-1].state_dict())
    assert len(last.projectors) == 1 < len(deep.projectors)
    outputs = [
        model.eval()(student_pixel_values=pixels(1), teacher_features=backbone.extract(pixels()))
        for model, backbone in ((deep, deep_backbone), (last, last_backbone))
    ]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert torch.equal(outputs[0].student_logits, outputs[1].student_logits)


@pytest.mark.parametrize("student", STUDENTS)
def test_inference_agrees_with_the_hybrid_pass_and_sees_no_student_image(student, towers):
    model, backbone = parts(towers, "vit", student)
    model.eval()
    features = backbone.extract(pixels())
    hybrid = model(student_pixel_values=pixels(1), teacher_features=features).logits
    alone = model(teacher_features=features)
    assert torch.allclose(alone.logits, hybrid, atol=1e-6)
    assert alone.student_logits is None and len(alone.hybrid_logits) == 1
    model.attach(backbone)
    assert torch.equal(model(pixel_values=pixels()).logits, alone.logits)
    loss = model(pixel_values=pixels(), labels=torch.tensor([0, 1, 2, 0])).loss
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(alone.logits, torch.tensor([0, 1, 2, 0])))


@pytest.mark.parametrize("stages", ["last", "all"])
def test_a_student_that_reads_its_image_after_the_last_stage_needs_it_at_inference(stages, towers):
    model, backbone = parts(towers, "vit", "resnet", stages)
    model.eval()
    features = backbone.extract(pixels())
    resnet = model.student.model.resnet
    own_forward = resnet.forward

    def with_skip(pixel_values, **kwargs):
        output = own_forward(pixel_values, **kwargs)
        output.pooler_output = output.pooler_output + pixel_values.mean()
        return output

    resnet.forward = with_skip
    with pytest.raises(StageError, match=r"ResNetForImageClassification cannot classify.*Pass student_pixel_values"):
        model(teacher_features=features)
    assert model(student_pixel_values=pixels(1), teacher_features=features).logits.shape == (4, 3)
    resnet.forward = own_forward
    model._needs = None  # a student is asked once
    state = torch.get_rng_state()
    assert model(teacher_features=features).logits.shape == (4, 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_attached_backbone_is_not_trained(towers):
    model, backbone = parts(towers, "mobilenet_v2")
    model.attach(backbone)
    model.train()
    assert model.student.training and not any(module.training for module in model.backbone.modules())
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model(pixel_values=pixels(), student_pixel_values=pixels(1), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())


def test_another_backbone_is_refused(towers, tmp_path):
    model, backbone = parts(towers)
    model.save_pretrained(tmp_path / "teacher")
    torch.manual_seed(5)
    AutoModel.from_config(TEACHERS["vit"]).save_pretrained(tmp_path / "other")
    with pytest.raises(BackboneError) as error:
        RDTeacherForImageClassification.from_pretrained(tmp_path / "teacher", backbone=tmp_path / "other")
    other = Backbone.from_pretrained(tmp_path / "other").source["sha256"]
    assert backbone.source["sha256"] in str(error.value) and other in str(error.value)


def test_local_backbone_must_be_given(towers, tmp_path):
    model, backbone = parts(towers)
    model.save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=backbone.source["sha256"]):
        RDTeacherForImageClassification.from_pretrained(tmp_path)
    for given in (towers["vit"], backbone, AutoModel.from_pretrained(towers["vit"])):
        loaded = RDTeacherForImageClassification.from_pretrained(tmp_path, backbone=given)
        assert weights_hash(loaded.backbone) == backbone.source["sha256"]


def test_backbone_is_fetched_from_its_source(towers, tmp_path, monkeypatch):
    model, backbone = parts(towers)
    model.config.backbone_source = {**backbone.source, "id": "somebody/tower", "revision": "0" * 40}
    model.save_pretrained(tmp_path)
    asked = []

    def fetch(name, revision, *args):
        asked.append((name, revision))
        return backbone

    monkeypatch.setattr(Backbone, "from_pretrained", fetch)
    RDTeacherForImageClassification.from_pretrained(tmp_path)
    assert asked == [("somebody/tower", "0" * 40)]


def test_missing_weights_are_refused(towers, tmp_path):
    model, _ = parts(towers)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["projectors.1.bottleneck.0.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"projectors\.1\.bottleneck\.0\.weight"):
        RDTeacherForImageClassification.from_pretrained(tmp_path, backbone=towers["vit"])


def test_what_is_not_there_is_said(towers, tmp_path):
    model, backbone = parts(towers)
    with pytest.raises(BackboneError, match="none is attached"):
        model.save_pretrained(tmp_path, save_backbone=True)
    with pytest.raises(BackboneError, match="attach"):
        model.eval()(pixel_values=pixels())
    with pytest.raises(ValueError, match="2 projectors"):
        model(teacher_features=backbone.extract(pixels())[:1])
    with pytest.raises(ValueError, match="student_pixel_values"):
        model.train()(teacher_features=backbone.extract(pixels()))


def test_copies_and_moves_keep_working(towers):
    model, backbone = parts(towers, "clip", "vit")
    model.attach(backbone)
    model.eval()
    logits = model(pixel_values=pixels()).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(pixel_values=pixels()).logits, logits)
    assert twin.to(torch.float64)(pixel_values=pixels().double()).logits.dtype == torch.float64
    assert not any(name.startswith(("_staged", "_extractor")) for name in twin.state_dict())


def test_another_student_can_be_put_in(towers):
    model, backbone = parts(towers)
    features = backbone.extract(pixels())
    model.eval()(teacher_features=features)
    model.student = copy.deepcopy(model.student)
    with torch.no_grad():
        model.student.model.classifier[-1].weight.zero_()
        model.student.model.classifier[-1].bias.zero_()
    assert not model(teacher_features=features).logits.any()


def test_projectors_are_built_without_running_the_backbone(towers):
    model, _ = parts(towers, "mobilenet_v2", "vit")
    config = RDTeacherConfig.from_dict(model.config.to_dict())
    with torch.device("meta"):
        built = RDTeacherForImageClassification(config)
    assert all(parameter.is_meta for parameter in built.parameters())
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in built.state_dict().items()} == shapes


def test_projectors_keep_their_own_initialisation(towers):
    model, _ = parts(towers)
    again = RDTeacherForImageClassification(model.config)
    for projector in (*model.projectors, *again.projectors):
        assert float(projector.bottleneck[0].weight.detach().std()) > 0.1  # transformers' own would be 0.02
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_stages_by_name(towers):
    backbone = Backbone.from_pretrained(towers["vit"])
    classifier = AutoModelForImageClassification.from_config(copy.deepcopy(STUDENTS["resnet"]))
    student = RDStudentForImageClassification.from_classifier(classifier, image_size=32)
    names = [stage.name for stage in backbone.find_stages((32, 32))][1:3]
    model = RDTeacherForImageClassification.from_parts(
        student, backbone, 32, "all", teacher_stages=names, student_stages=["resnet.encoder.stages.0"]
    )
    assert [stage["name"] for stage in model.config.teacher_stages] == names[-1:]
    assert [stage["name"] for stage in model.config.student_stages] == ["resnet.encoder.stages.0"]


def test_labels_are_the_students(towers, tmp_path):
    model, backbone = parts(towers)
    model.student.config.id2label = {0: "a", 1: "b", 2: "c"}
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    model.config.problem_type = "multi_label_classification"
    assert model.student.model.config.problem_type == "multi_label_classification"
    model.save_pretrained(tmp_path)
    loaded = RDTeacherForImageClassification.from_pretrained(tmp_path, backbone=backbone)
    assert loaded.student.model.config.label2id == {"a": 0, "b": 1, "c": 2}
    labels = torch.tensor([[0.0, 1, 1]]).expand(4, 3)
    output = loaded.eval()(pixel_values=pixels(), labels=labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
    assert torch.allclose(output.loss, expected)


def test_incomplete_configs_are_refused(towers):
    values = parts(towers)[0].config.to_dict()
    with pytest.raises(ValueError, match="paired one to one"):
        RDTeacherConfig.from_dict({**values, "teacher_stages": []})
    with pytest.raises(ValueError, match="local path"):
        RDTeacherConfig.from_dict({**values, "backbone_source": {"id": "/models/x", "revision": None, "sha256": ""}})
    with pytest.raises(ValueError, match="sha256"):
        RDTeacherConfig.from_dict({**values, "backbone_source": {"id": "a/b"}})
    with pytest.raises(ValueError, match="student_config"):
        RDTeacherConfig.from_dict({**values, "student_config": None})


def test_a_stage_that_is_off_runs_nothing_and_changes_nothing_of_the_others(towers):
    model, backbone = parts(towers)
    model.train()
    inputs = {"student_pixel_values": pixels(1), "teacher_features": backbone.extract(pixels())}
    runs = []
    for number, projector in enumerate(model.projectors):
        projector.register_forward_hook(lambda *_, number=number: runs.append(number))
    model.student.register_forward_hook(lambda *_: runs.append("student"))
    whole = model(**inputs)
    for number in range(len(model.projectors)):
        runs.clear()
        output = model(**inputs, stages=(number,))
        assert runs == [number]
        assert torch.equal(output.logits, whole.hybrid_logits[number]) and len(output.hybrid_logits) == 1
        assert torch.equal(output.student_logits, whole.student_logits)
        (own,), (reprogrammed,) = output.student_features, output.reprogrammed_features
        assert torch.equal(own.map, whole.student_features[number].map)
        assert torch.equal(reprogrammed.map, whole.reprogrammed_features[number].map)
    without = model(**inputs, hybrids=False)
    assert without.logits is None and without.hybrid_logits == ()
    assert torch.equal(without.student_logits, whole.student_logits)
    for feature, expected in zip(without.reprogrammed_features, whole.reprogrammed_features, strict=True):
        assert torch.equal(feature.map, expected.map)
