"""What the command line makes of errors: a sentence for those of an input, a traceback for those of the program."""

import traceback

import pytest
import torch

from rd_hf import cli


def fail_with(monkeypatch, error):
    def fail(options):
        raise error

    monkeypatch.setattr(cli, "_predict", fail)


@pytest.mark.parametrize("error", [ValueError("as it is"), OSError("as it is")])
def test_an_error_of_the_input_is_a_sentence(monkeypatch, capsys, error):
    fail_with(monkeypatch, error)
    assert cli.main(["predict"]) == cli.EXIT_FAILED
    assert capsys.readouterr().err == "rd-hf predict: as it is\n"


def test_an_error_of_the_input_has_its_traceback_where_it_is_asked_for(monkeypatch):
    fail_with(monkeypatch, ValueError("as it is"))
    monkeypatch.setenv("RD_HF_DEBUG", "1")
    with pytest.raises(ValueError, match="as it is"):
        cli.main(["predict"])


OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to ..."),
    RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried to ..."),
]


@pytest.mark.parametrize("error", OF_MEMORY)
def test_too_little_memory_is_a_sentence_with_the_arguments(monkeypatch, capsys, error):
    fail_with(monkeypatch, error)
    assert cli.main(["predict"]) == cli.EXIT_FAILED
    assert "too little memory. Take fewer images per batch: per_device_train_batch_size" in capsys.readouterr().err


@pytest.mark.parametrize("error", [TypeError("a bug"), RuntimeError("a bug"), KeyError("a bug")])
def test_an_error_of_the_program_keeps_its_traceback_and_asks_to_be_reported(monkeypatch, error):
    fail_with(monkeypatch, error)
    with pytest.raises(type(error)) as caught:
        cli.main(["predict"])
    shown = "".join(traceback.format_exception(caught.value))
    assert "a bug" in shown and shown.splitlines()[-1].startswith("rd-hf predict: This error was not foreseen.")
