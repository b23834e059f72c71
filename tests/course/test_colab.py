"""What Colab needs: a restart asked for where a library was replaced under the kernel, and Drive on wish."""

import sys
from types import ModuleType

import numpy
import pytest

from lmlab.course.colab import check_imported_libraries, mount_drive


def test_nothing_is_asked_where_the_kernel_runs_what_is_installed():
    assert numpy.__name__ in sys.modules
    check_imported_libraries()


def test_a_library_that_was_replaced_under_the_kernel_asks_for_a_restart(monkeypatch):
    monkeypatch.setattr(numpy, "__version__", "1.0.0")
    with pytest.raises(RuntimeError, match="numpy 1.0.0 .*restart"):
        check_imported_libraries()


def test_a_build_of_the_same_version_is_the_same(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "__version__", torch.__version__.partition("+")[0] + "+cu128")
    check_imported_libraries()


@pytest.mark.parametrize(
    ("folder", "mounted"), [("/content/drive/MyDrive/lmlab", ["/content/drive"]), ("runs", [])]
)
def test_drive_is_mounted_only_for_a_run_that_goes_there(folder, mounted, monkeypatch):
    calls = []
    colab, drive = ModuleType("google.colab"), ModuleType("google.colab.drive")
    drive.mount, colab.drive = calls.append, drive
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
    mount_drive(folder)
    assert calls == mounted


def test_elsewhere_a_folder_of_that_name_is_a_folder():
    mount_drive("/content/drive/MyDrive/lmlab")
