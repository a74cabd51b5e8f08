"""The files that may be loaded, folder by folder, for whoever fills in a form."""

import os
from typing import Any

from ingest_service.sources.allowed import Allowed, SourceRefused

MOST = 500


def listed(allowed: Allowed, name: str) -> dict[str, Any]:
    """What is in a folder below the roots, or the roots where none is named; links are left out. Blocks.

    SourceRefused for any other place, and for what is no folder: nobody learns which.
    """
    if not name:
        return {"folder": "", "folders": [str(root) for root in allowed.roots], "files": [], "is_whole": True}
    try:
        folder = allowed.resolved(name)
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
            folders = [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]
            files = [entry for entry in found if entry.is_file(follow_symlinks=False)]
            sizes = [{"path": entry.path, "size": entry.stat(follow_symlinks=False).st_size} for entry in files[:MOST]]
    except (OSError, SourceRefused):
        raise SourceRefused("There is no such folder below those of the setting serve.roots.") from None
    is_whole = max(len(folders), len(files)) <= MOST
    return {"folder": str(folder), "folders": folders[:MOST], "files": sizes, "is_whole": is_whole}
