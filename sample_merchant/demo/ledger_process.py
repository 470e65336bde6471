"""The demo's ledger process: `python -m sample_merchant.demo.ledger_process FOLDER PLUG`."""

from __future__ import annotations

import sys
from pathlib import Path

from carepos_ledger import app
from carepos_ledger.settings import Settings
from sample_merchant.demo.plug import Plug

if __name__ == "__main__":
    app.serve(Settings.load(Path(sys.argv[1])), reached=Plug(Path(sys.argv[2])).reached)
