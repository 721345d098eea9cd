"""Files that stand in for others that were not downloaded, told by their first bytes."""

from __future__ import annotations

HEAD_BYTES = 512
_POINTER = b"version https://git-lfs"
_ANNEX = b"/annex/objects/"
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body")
_ANSWERS = (b"<?xml", b"<error")


def stand_in(head: bytes) -> str | None:
    """Say what a file is that is not the one it should be, and the way out.

    :param head: its first HEAD_BYTES bytes.
    :return: a clause for an error message; None if the file may be what it should be.
    """
    if head.startswith(_POINTER):
        return (
            "it is a Git LFS pointer, which stands for a file that was not downloaded: run `git lfs pull` in its "
            "repository"
        )
    if head.startswith(_ANNEX) or (head.startswith((b"../", b".git/")) and _ANNEX in head):
        return (
            "it is a pointer of git-annex or DataLad, which stands for a file that was not downloaded: run `git annex "
            "get` or `datalad get` on it"
        )
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(_PAGES):
        return "it is a web page, such as a server sends in place of a file: download the file again"
    if start.startswith(_ANSWERS):
        return "it is XML text, such as a server sends in place of a file: download the file again"
    if not head:
        return "it is empty, so download it again"
    return None
