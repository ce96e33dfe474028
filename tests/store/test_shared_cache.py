"""A cache that several machines share: entries come and go whole, and without it everything works as before."""

import stat
from pathlib import Path

import fsspec
import pytest

from compressctl.core.errors import NoCacheWarning, UsageError
from compressctl.store import cache_place
from compressctl.store.address import parse
from compressctl.store.shared_cache import Mode, SharedCache, SharedPlace, trim

KEY, OTHER = "ab" * 32, "cd" * 32
PLACE = "memory://team/cache"
ENTRY = f"/team/cache/stages/ab/{KEY}"


def fill(folder: Path) -> None:
    (folder / "part").mkdir()
    (folder / "part" / "file").write_text("content")


def machine(tmp_path: Path, name: str, mode: Mode = "write") -> SharedCache:
    return SharedCache(tmp_path / name, SharedPlace(parse(PLACE), mode))


def test_what_one_machine_made_another_takes(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    machine(tmp_path, "one").write(KEY, fill)
    assert list(bucket.store) == [ENTRY]
    other = machine(tmp_path, "two")
    assert KEY in other
    folder = other.read(KEY)
    assert folder is not None
    assert (folder / "part" / "file").read_text() == "content"
    assert stat.S_IMODE((folder / "part" / "file").stat().st_mode) == 0o600
    assert not list(tmp_path.rglob(".writing-*"))


def test_what_is_on_this_machine_is_not_asked_for(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(tmp_path, "one").write(KEY, fill)
    monkeypatch.setattr(bucket, "info", None)
    monkeypatch.setattr(bucket, "open", None)
    cache = machine(tmp_path, "one", "read")
    assert KEY in cache
    assert cache.read(KEY) is not None


def test_a_reader_puts_nothing(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    machine(tmp_path, "one", "read").write(KEY, fill)
    assert not bucket.store
    machine(tmp_path, "two").write(KEY, fill)
    assert machine(tmp_path, "three", "read").read(KEY) is not None


def test_what_a_killed_upload_left_here_alone_is_put_there_when_it_is_read(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    machine(tmp_path, "one").write(KEY, fill)
    whole = bucket.cat_file(ENTRY)
    bucket.rm_file(ENTRY)
    assert machine(tmp_path, "one", "read").read(KEY) is not None
    assert not bucket.store
    assert machine(tmp_path, "one").read(KEY) is not None
    assert bucket.cat_file(ENTRY) == whole


def test_an_entry_that_is_there_is_not_put_again(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    machine(tmp_path, "one").write(KEY, fill)
    before = bucket.store[ENTRY].created
    machine(tmp_path, "two").write(KEY, fill)
    assert bucket.store[ENTRY].created == before


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-1], lambda whole: whole.replace(b"content", b"CONTENT"), lambda whole: b""]
)
def test_damage_is_a_warning_and_is_mended(damage, bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    machine(tmp_path, "one").write(KEY, fill)
    whole = bucket.cat_file(ENTRY)
    bucket.pipe_file(ENTRY, damage(whole))
    cache = machine(tmp_path, "two")
    with pytest.warns(NoCacheWarning, match="is damaged and is not used"):
        assert cache.read(KEY) is None
    assert KEY not in cache
    assert not [path for path in (tmp_path / "two").rglob("*") if path.is_file()]
    cache.write(KEY, fill)
    assert bucket.cat_file(ENTRY) == whole


def test_another_entry_in_its_place_is_damage(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    machine(tmp_path, "one").write(OTHER, fill)
    bucket.cp_file(f"/team/cache/stages/cd/{OTHER}", ENTRY)
    with pytest.warns(NoCacheWarning, match="another entry's"):
        assert machine(tmp_path, "two").read(KEY) is None


def test_what_could_not_be_read_back_is_not_taken_again(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    """Whole, but naming code that the recipe does not, or of another version: whoever reads it removes it."""
    machine(tmp_path, "one").write(KEY, fill)
    cache = machine(tmp_path, "two")
    assert cache.read(KEY) is not None
    cache.remove(KEY)
    assert KEY not in cache
    assert cache.read(KEY) is None


def test_no_more_is_taken_than_an_entry_may_have(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(tmp_path, "one").write(KEY, fill)
    monkeypatch.setattr("compressctl.store.shared_cache.LARGEST_ENTRY", 10)
    with pytest.warns(NoCacheWarning, match="too much"):
        assert machine(tmp_path, "two").read(KEY) is None
    machine(tmp_path, "three").write(OTHER, fill)
    assert list(bucket.store) == [ENTRY]


@pytest.mark.parametrize("error", [ConnectionRefusedError("nobody"), PermissionError("Forbidden"), TimeoutError()])
def test_a_place_that_does_not_answer_is_asked_once(
    error: Exception, bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fail(path: str) -> None:
        asked.append(path)
        raise error

    monkeypatch.setattr(bucket, "info", fail)
    cache = machine(tmp_path, "one")
    with pytest.warns(NoCacheWarning, match="not used from here on"):
        assert KEY not in cache
    cache.write(KEY, fill)
    assert cache.read(KEY) is not None
    assert OTHER not in cache
    assert len(asked) == 1


def test_a_place_that_takes_nothing_is_a_warning(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError("AccessDenied")

    monkeypatch.setattr(bucket, "put_file", fail)
    cache = machine(tmp_path, "one")
    with pytest.warns(NoCacheWarning, match="nobody lets us in"):
        cache.write(KEY, fill)
    assert cache.read(KEY) is not None


def test_its_limit_keeps_what_was_put_last(bucket: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    cache = machine(tmp_path, "one")
    cache.write(KEY, fill)
    cache.write(OTHER, fill)
    bucket.pipe_file("/team/cache/stages/README", b"no entry")
    size = bucket.info(ENTRY)["size"]
    assert trim(PLACE, None).entries == 2
    after = trim(PLACE, size)
    assert (after.entries, after.size, after.removed) == (1, size, 1)
    assert sorted(bucket.store) == ["/team/cache/stages/README", f"/team/cache/stages/cd/{OTHER}"]


@pytest.mark.parametrize(
    "address", ["https://host/cache", "hf://org/repo", "/a/path", "http://host", "s3://me:secret@bucket"]
)
def test_what_cannot_hold_a_cache_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache_place.SHARED, address)
    with pytest.raises(UsageError):
        cache_place.stage_cache()


def test_it_must_be_named_and_is_no_part_of_other_runs(
    bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(tmp_path, "one").write(KEY, fill)
    plain = cache_place.stage_cache()
    assert plain is not None
    assert KEY not in plain
    monkeypatch.setenv(cache_place.SHARED, PLACE)
    monkeypatch.setenv(cache_place.SHARED_MODE, "read")
    shared = cache_place.stage_cache()
    assert shared is not None
    assert shared.read(KEY) is not None
    monkeypatch.delenv(cache_place.SHARED)
    again = cache_place.stage_cache()
    assert again is not None
    assert KEY not in again
    monkeypatch.setenv(cache_place.SHARED, PLACE)
    monkeypatch.setenv(cache_place.SHARED_MODE, "both")
    with pytest.raises(UsageError, match="write read or write"):
        cache_place.stage_cache()


def test_a_folder_that_machines_share_does_it_too(tmp_path: Path) -> None:
    place = SharedPlace(parse(f"file://{tmp_path}/team"))
    SharedCache(tmp_path / "one", place).write(KEY, fill)
    assert SharedCache(tmp_path / "two", place).read(KEY) is not None
    assert trim(place.address.text, 0).removed == 1
