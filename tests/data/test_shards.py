"""Images in tar files: found by an index, read by number, and what is said of files that cannot be read."""

import gzip
import io
import tarfile

import pytest
from small_images import png

from rd_hf.data import shards as shards_module
from rd_hf.data.columns import DataError
from rd_hf.data.decoding.images import BadImageError
from rd_hf.data.shards import ImageShards, find_shards


def write_shard(path, members: dict[str, bytes], **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def values(shards: ImageShards) -> list[int]:
    return [shards.image(row).rgb.getpixel((0, 0))[0] for row in range(len(shards))]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_images_are_numbered_by_file_and_place_and_read_in_any_order(tmp_path, form, monkeypatch):
    monkeypatch.setattr(shards_module, "OPEN_FILES", 2)
    long = "/".join(["a_long_name_of_a_folder" * 2] * (3 if form == tarfile.USTAR_FORMAT else 8))
    for number in range(4):
        members = {f"{number}.json": b"{}", f"b{number}.png": png(10 * number), f"._b{number}.png": b"not an image"}
        members |= {f"{long}/a.PNG": png(10 * number + 1), f"{number}.cls": b"1"}
        write_shard(tmp_path / "data" / f"train-{number}.tar", members, format=form)
    (tmp_path / "README.md").write_text("a copy of a repository")
    shards = ImageShards(find_shards(tmp_path))
    assert values(shards) == [0, 1, 10, 11, 20, 21, 30, 31] and len(shards) == 8
    assert shards.image(6).rgb.getpixel((0, 0)) == (30, 30, 30) and shards.image(1).rgb.size == (4, 3)
    one = ImageShards(find_shards(tmp_path / "data" / "train-2.tar"))
    assert values(one) == [20, 21] and one.fingerprint() != shards.fingerprint()
    assert shards.fingerprint() == ImageShards(find_shards(tmp_path)).fingerprint()


def test_a_folder_with_images_or_tables_is_none_of_shards(tmp_path):
    write_shard(tmp_path / "old.tar", {"a.png": png(0)})
    assert len(find_shards(tmp_path)) == len(find_shards(str(tmp_path))) == 1
    (tmp_path / "b.png").write_bytes(png(0))
    assert find_shards(tmp_path) == [] == find_shards("a/hub-id") == find_shards(None)


def test_a_damaged_image_is_named_or_the_next_one_is_shown(tmp_path, caplog):
    path = write_shard(tmp_path / "x.tar", {"a.png": png(1), "b.png": png(2)[:40], "c.png": b"", "d.png": png(4)})
    with pytest.raises(BadImageError, match=r"'b\.png' in x\.tar.*`on_bad_image` skip"):
        values(ImageShards([path]))
    assert values(ImageShards([path], skip_bad=True)) == [1, 4, 4, 4]
    assert caplog.text.count("Skipped, the next image is shown in its place: ") == 3  # row 1 met two of them
    write_shard(path, {"a.png": b"", "b.png": b"0"})
    with pytest.raises(BadImageError, match=r"100 images in a row.*'b\.png' in x\.tar"):
        ImageShards([path], skip_bad=True).image(1)


def test_files_that_are_cut_off_compressed_or_without_images_are_refused(tmp_path):
    path = write_shard(tmp_path / "x.tar", {"a.png": png(1), "b.png": png(2)})
    whole = path.read_bytes()
    for content, words in (
        (whole[: 3 * 512 + 20], "x.tar' cannot be read as an uncompressed tar file"),
        (gzip.compress(whole), "x.tar' cannot be read as an uncompressed tar file"),
        (b"", "x.tar' cannot be read as an uncompressed tar file"),
        (whole[:1024] + b"\xff" * 512 + whole[1536:], "damaged or cut off at byte 1024"),
        (whole[:1124], "damaged or cut off at byte 1024"),
        (whole + whole, "another archive follows behind its end"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=words):
            ImageShards([path])
    write_shard(path, {"a.txt": b"1"})
    with pytest.raises(DataError, match="contain no images"):
        ImageShards([path])


def test_a_file_that_ends_between_two_images_is_read_with_a_warning(tmp_path, caplog):
    path = write_shard(tmp_path / "x.tar", {"a.png": png(1), "b.png": png(2)})
    path.write_bytes(path.read_bytes()[:1024])
    assert values(ImageShards([path])) == [1]
    assert "x.tar has no mark of its end, so images may be missing" in caplog.text
