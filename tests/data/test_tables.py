import logging

import pytest
from PIL import Image

from rd_hf.data.columns import DataError
from rd_hf.data.sources import load_data
from rd_hf.data.tables import read_json_lines, read_table


def read(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path).to_pydict()


ROWS = {"file_name": ["1.png", "2.png"], "label": ["benign", "malignant"]}


@pytest.mark.parametrize(
    "content",
    [
        "file_name,label\n1.png,benign\n2.png,malignant\n",
        "file_name;label\r\n1.png;benign\r\n2.png;malignant",
        "file_name\tlabel\n1.png\tbenign\n\n2.png\tmalignant\n\n",
        "file_name|label\n1.png|benign\n2.png|malignant\n",
        "sep=;\nfile_name;label\n1.png;benign\n2.png;malignant\n",
        '"file_name","label"\n"1.png","benign"\n"2.png","malignant"\n',
        "file_name,label,,\n1.png,benign,,\n2.png,malignant,,\n",
        b"\xef\xbb\xbffile_name,label\n1.png,benign\n2.png,malignant\n",
        "file_name,label\n1.png,benign\n2.png,malignant\n".encode("utf-16"),
        "file_name\rlabel\n".replace("\rlabel", ",label") + "1.png,benign\r2.png,malignant\r",
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_separators_and_encodings(tmp_path, content, suffix):
    assert read(tmp_path / f"t.{suffix}", content) == ROWS


def test_text_stays_as_it_is_written(tmp_path):
    content = 'id,label,note,score\n007,01,None,"1,5"\n1e3,NA,"two\nlines",\nTrue,2020-01-02,"say ""x""",0\n'
    assert read(tmp_path / "t.csv", content) == {
        "id": ["007", "1e3", "True"],
        "label": ["01", "NA", "2020-01-02"],
        "note": ["None", "two\nlines", 'say "x"'],
        "score": ["1,5", None, "0"],
    }


def test_decimal_commas_between_semicolons(tmp_path):
    assert read(tmp_path / "t.csv", "file_name;age, years;label\n1.png;40,5;a\n2.png;61,0;b\n") == {
        "file_name": ["1.png", "2.png"], "age, years": ["40,5", "61,0"], "label": ["a", "b"]
    }  # fmt: skip


def test_windows_1252_is_said(tmp_path, caplog):
    rows = read(tmp_path / "t.csv", "file_name,label\n1.png,gutartig – früh\n".encode("cp1252"))
    assert rows["label"] == ["gutartig – früh"]
    assert "t.csv' is not in UTF-8; it is read as Windows-1252" in caplog.text


def test_cell_of_any_length(tmp_path):
    assert read(tmp_path / "t.csv", f"image,label\n{'A' * 300_000},x\n")["image"] == ["A" * 300_000]


def test_unusual_separator_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    read(tmp_path / "t.csv", "file_name;label\n1.png;x\n")
    assert "t.csv' are separated by semicolons" in caplog.text


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "no table: it is empty"),
        ("\n\n", "has no line of text"),
        ("1.png,benign\n2.png,malignant\n", r"the first line of .* holds '1\.png'.*file_name,label"),
        ("file_name,label\n1.png,benign\n2.png,a,b\n", "line 3: 3 cells, but the first line names 2"),
        ("file_name,label,label\n1.png,a,b\n", "two columns named 'label'"),
        ('file_name,label,note\n1.png,a,"open\n2.png,b,x\n3.png,a,y\n', "line 2: a quote is opened and never closed"),
        (b"PK\x03\x04\0\0\0", "no table of text"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 4\n", "Git LFS pointer"),
        ("<!DOCTYPE html>\n<html>\n</html>\n", "web page"),
    ],
)
def test_what_is_no_table(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / "t.csv", content)


@pytest.mark.parametrize(
    "lines, first, last",
    [
        (['1.png,"b,x', "2.png,a,y", '3.png,"b,z', "4.png,a,y"], 2, 4),
        (["1.png,a,x", "", '2.png,"b,x', "3.png,a,y", '4.png,b",z'], 4, 6),  # which is no fault of quoting
        (['1.png,"b,x', '2.png,"a,y'], 2, 3),
        (['1.png,a,say "hello', '2.png,a,"x', "3.png,b,y", '4.png,a,z"'], 3, 5),
        (['"1.png,a,x', "2.png,b,y", '"3.png,a,x'], 2, 4),
    ],
)
def test_two_stray_quotes_do_not_take_the_rows_between(tmp_path, lines, first, last):
    with pytest.raises(DataError, match=rf"line {first}: a quote is opened there and .*, up to line {last}, so that"):
        read(tmp_path / "t.csv", "\n".join(["file_name,label,note", *lines]))


@pytest.mark.parametrize("note", ["a, b\nc, d, e", "see 1.png\nand 2.png", "x\n\n1,2,3\n"])
def test_text_of_several_lines_is_a_cell(tmp_path, note):
    table = read(tmp_path / "t.csv", f'file_name,label,note\n1.png,a,"{note}"\n2.png,b,\n')
    assert table["note"] == [note, None] and table["file_name"] == ["1.png", "2.png"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_spaces_after_separators(tmp_path, separator):
    rows = [["file_name", " label"], ["1.png", f' "x{separator} a"'], ["2.png", ' "b"'], ["3.png", "  c d"]]
    table = read(tmp_path / "t.csv", "\n".join(separator.join(row) for row in rows))
    assert table == {"file_name": ["1.png", "2.png", "3.png"], "label": [f"x{separator} a", "b", "c d"]}


@pytest.mark.parametrize("end", ["", "\n"])
def test_quotes_that_are_closed(tmp_path, end):
    table = read(tmp_path / "t.csv", f'file_name,label\n1.png,"a, or\nb"\n2.png,"6"" wide"{end}')
    assert table["label"] == ["a, or\nb", '6" wide']


def test_short_row_has_no_label(tmp_path):
    assert read(tmp_path / "t.csv", "file_name,label\n1.png\n2.png,b\n")["label"] == [None, "b"]


@pytest.mark.parametrize("columns", ["Image Index,Finding", "image_id,Diagnosis", "isic_id,Label", "Path,Target"])
def test_usual_names_in_any_case(tmp_path, columns):
    for number in range(2):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
    (tmp_path / "t.csv").write_text(f"{columns}\n0.png,a\n1.png,b\n")
    assert load_data(tmp_path / "t.csv").label_names == ["a", "b"]


def test_lines_of_json_keep_their_types(tmp_path):
    lines = [
        '{"file_name": "1.png", "label": "2024-01-02", "number": 1, "marks": ["a", "b"]}',
        '{"label": "01", "file_name": "2.png", "number": 2.5, "marks": []}',
        "",
        '{"file_name": "3.png", "label": null}',
    ]
    (tmp_path / "t.jsonl").write_text("\r\n".join(lines))
    assert read_json_lines(tmp_path / "t.jsonl").to_pydict() == {
        "file_name": ["1.png", "2.png", "3.png"],
        "label": ["2024-01-02", "01", None],
        "number": [1.0, 2.5, None],
        "marks": [["a", "b"], [], None],
    }


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"label": "a"}\n{"label": \n', "line 2 is not valid JSON"),
        ('["a", "b"]', "line 1 is no JSON object"),
        ('{"label": "a"}\n{"label": 1}', "column 'label' mixes values of type int and str"),
        ("\n", "has no line of text"),
        ("<html>", "no table: it is a web page"),
    ],
)
def test_what_is_no_table_of_json(tmp_path, content, message):
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_json_lines(tmp_path / "t.jsonl")
