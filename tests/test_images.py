import numpy as np
import pytest
from PIL import Image

from sparsight import SparsightError
from sparsight.files import atomic, read_json, write_json
from sparsight.images import Folder, read_image, read_sheet, to_pixels, to_tensor, write_sheet


def test_pixels_survive_a_round_trip():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    assert np.array_equal(to_pixels(to_tensor(pixels)), pixels)


@pytest.mark.parametrize("count", [1, 8, 11])
def test_a_sheet_gives_back_its_images(tmp_path, count):
    pixels = np.random.default_rng(count).integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
    write_sheet(tmp_path / "s.png", to_tensor(pixels))
    assert np.array_equal(to_pixels(read_sheet(tmp_path / "s.png", count, (6, 5))), pixels)
    with pytest.raises(SparsightError, match="no sheet of"):
        read_sheet(tmp_path / "s.png", count + 8, (6, 5))


def test_truncated_and_missing_images_are_named(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SparsightError, match=r"a\.png is not a readable image"):
        read_image(tmp_path / "a.png")
    with pytest.raises(SparsightError, match="does not exist"):
        read_image(tmp_path / "b.png")


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for name, shade in (("b.png", 255), ("a.png", 0)):
        Image.new("RGB", (4, 4), (shade,) * 3).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    folder = Folder(tmp_path, (4, 4))
    assert len(folder) == 2
    assert folder.batch([0, 1]).mean((1, 2, 3)).tolist() == [-1.0, 1.0]


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(RuntimeError), atomic(tmp_path / "x.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_is_one_clear_sentence(tmp_path):
    with pytest.raises(SparsightError, match=r"cannot write .*x\.json: No space left"), atomic(tmp_path / "x.json"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named():
    with pytest.raises(SparsightError, match="cannot write /proc/nowhere"):
        write_json("/proc/nowhere/x.json", {})


def test_a_broken_json_file_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(SparsightError, match=r"x\.json is not readable JSON"):
        read_json(tmp_path / "x.json")
