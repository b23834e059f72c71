"""What a notebook in the cloud needs: Google Drive, and a restart where pip has replaced a library."""

import sys
from importlib import metadata
from pathlib import Path

DRIVE = Path("/content/drive")  # where Colab mounts it
# those that a kernel may have imported before the setup cell has installed lmlab
WATCHED = """
numpy pandas pyarrow matplotlib ipywidgets huggingface_hub tokenizers transformers datasets torch
""".split()


def mount_drive(output_dir: str | Path) -> None:
    """Mounts Google Drive in Colab, for a run whose folder is there. It asks the reader for permission."""
    wanted = Path(output_dir).is_relative_to(DRIVE) and "google.colab" in sys.modules
    if wanted and not (DRIVE / "MyDrive").exists():
        from google.colab import drive

        drive.mount(str(DRIVE))


def check_imported_libraries() -> None:
    """Looks for libraries of which the kernel runs another version than the one installed.

    Raises:
        RuntimeError: There are some: the kernel has to be restarted.
    """
    replaced = []
    for name in WATCHED:
        running = getattr(sys.modules.get(name), "__version__", None)
        if running is None:
            continue
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if running.partition("+")[0] != installed.partition("+")[0]:
            replaced.append(f"{name} {running} (installed now: {installed})")
    if replaced:
        raise RuntimeError(
            f"this kernel still runs {', '.join(replaced)}, which the installation of lmlab has replaced; "
            "restart it (in Colab: Runtime, Restart session), then run the cells from the first one on"
        )
