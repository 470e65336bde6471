"""The demo's till process: `python -m sample_merchant.demo.till_process FOLDER PLUG`."""

from __future__ import annotations

import sys
from pathlib import Path

from carepos_plugin import app
from sample_merchant.demo.plug import Plug

if __name__ == "__main__":
    app.serve(Path(sys.argv[1]), reached=Plug(Path(sys.argv[2])).reached)
