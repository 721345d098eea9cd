"""The import is light, and the Auto classes know both models in whichever order things are imported."""

import subprocess
import sys
import textwrap

import pytest
from conftest import REPOSITORY

IS_KNOWN = """
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers import AutoConfig, AutoModelForImageClassification
assert {"rd_student", "rd_teacher", "monai"} <= set(CONFIG_MAPPING)
from rd_hf import RDStudentForImageClassification, RDTeacherForImageClassification
for model in (RDStudentForImageClassification, RDTeacherForImageClassification):
    assert CONFIG_MAPPING[model.config_class.model_type] is model.config_class
    assert AutoModelForImageClassification._model_mapping[model.config_class] is model
"""


@pytest.fixture
def run(light_python):
    """Runs code where torch and sklearn are imported, but neither transformers nor rd_hf."""

    def run(*parts: str) -> None:
        code = "\n".join(textwrap.dedent(part) for part in parts)
        done = light_python.run("-c", code, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr

    return run


def test_import_is_light():
    code = """
import sys
import rd_hf
assert rd_hf.__version__ and "distill" in dir(rd_hf)
heavy = {"torch", "transformers", "datasets", "evaluate", "kornia", "sklearn", "matplotlib", "accelerate"}
print(sorted(heavy & set(sys.modules)))
import transformers
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["[]", "False"]


@pytest.mark.parametrize(
    "first",
    [
        "import rd_hf",
        "from transformers import AutoConfig, AutoModelForImageClassification\nimport rd_hf",
        "import rd_hf\nfrom transformers import pipeline",
        "import rd_hf.models.backbone",
        "import rd_hf.models.configuration_rd",
    ],
)
def test_auto_classes_know_the_models(first, run):
    run(first, IS_KNOWN)


def test_registration_leaves_the_import_system_as_it_was(run):
    run(
        """
        import importlib, sys
        before = list(sys.meta_path)
        import rd_hf
        importlib.reload(rd_hf)
        assert [finder for finder in sys.meta_path if finder not in before] == sys.meta_path[:1]
        import transformers.models.auto.configuration_auto as auto
        from importlib.machinery import SourceFileLoader
        assert type(auto.__spec__.loader) is SourceFileLoader
        import inspect
        assert "class AutoConfig" in inspect.getsource(auto)
        assert importlib.util.find_spec("rd_hf.no_such_module") is None
        importlib.reload(auto)  # has forgotten what was registered
        assert "rd_teacher" in auto.CONFIG_MAPPING
        """,
    )


def test_names_are_looked_up_when_used(run):
    run(
        """
        import rd_hf
        try:
            rd_hf.distil
        except AttributeError as error:
            assert "distil" in str(error)
        else:
            raise AssertionError
        import pickle
        assert pickle.loads(pickle.dumps(rd_hf.RDTeacherConfig)) is rd_hf.RDTeacherConfig
        """
    )
