"""Write anew what tutorials print and their pictures: python -m tests.tutorials [own-model …]"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.house.sources import ROOT
from tests.tutorials.pages import PAGES, PICTURE, run


def write(path: Path) -> None:
    """One page's outputs, from the last to the first, and the pictures that it shows."""
    text = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for block, printed in reversed(run(path, Path(folder))):
            text = text[: block.start] + printed.rstrip() + "\n" + text[block.end :]
        for name in PICTURE.findall(text):
            shutil.copy(Path(folder) / name, ROOT / "docs" / "pictures" / name)
    path.write_text(text, encoding="utf-8")


torch.set_num_threads(1)
for page in PAGES:
    if len(sys.argv) == 1 or page.stem in sys.argv[1:]:
        begun = time.process_time()
        write(page)
        print(f"{page.stem}: {time.process_time() - begun:.1f} s of one core")
