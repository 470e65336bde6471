"""The examples of docs/no-network.md are executed as they stand, after three days of outage."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from carepos import upload_file
from carepos.journal_view import JournalView
from carepos.keys import KeySet
from carepos_plugin import pairing
from carepos_plugin.settings import Settings
from tests.stories.offline_shop import OfflineShop, offline_world
from tests.world import PROGRAMME

DOCS = Path(__file__).parents[1] / "docs" / "no-network.md"
MARK = "<!-- executed by tests/test_no_network_doc.py -->"


def test_a_shop_that_waits_in_vain_is_booked_by_hand(tmp_path: Path) -> None:
    """Every step works in the order of the page; only the address is another one. At the end the
    sales are booked once and confirmed, and the disk, the copy and the mirror say the same."""
    blocks = re.findall(rf"{MARK}\n```sh\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 6
    for name in ("stick", "second-disk", "dead-disk"):
        (tmp_path / name).mkdir()
    with offline_world(tmp_path) as made:
        shop = OfflineShop(made, "my-till")
        families = [shop.at_home(12_000) for _ in range(3)]
        shop.learn()
        shop.till.settle()
        shop.cable.is_out = True
        shop.restart(mirror=tmp_path / "second-disk")
        for family in families:
            made.now.forward(hours=20)
            assert shop.sell(family, 4_000).state == "provisional"
        shop.till.close()
        made.tills.remove(shop.till)
        shutil.copytree(shop.folder, tmp_path / "dead-disk" / "my-till")
        Settings.write_default(shop.folder)
        pairing.make(shop.folder)
        before = made.ledger.office.programme_sums(PROGRAMME["programme"]).redeemed_minor
        binaries = str(Path(sys.executable).parent)
        ended = subprocess.run(
            ["bash", "-e", "-c", "".join(blocks).replace("http://127.0.0.1:8440", made.url)],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        for said in ("Not uploaded 未上传:", "3 × = 120.00 CNY", "posted 已入账 7", "Still open"):
            assert said in ended.stdout, ended.stdout
        # Three sales before, nothing behind: whoever reads the last status may delete the folder.
        assert "Not uploaded 未上传: 3 sales, returns and day reports" in ended.stdout
        assert "Not uploaded 未上传: 0\n" in ended.stdout.rpartition("Till 终端")[2]
        sums = made.ledger.office.programme_sums(PROGRAMME["programme"])
        assert sums.redeemed_minor == before + 12_000
    view = JournalView.open(shop.folder / "journal.db", KeySet([]))
    assert {each.state for each in view.attempts()} == {"confirmed"}
    view.close()
    carried, mirrored, rescued = (
        {each.digest for each in upload_file.read_records(tmp_path / "stick" / name).records}
        for name in ("shop.records", "mirrored.records", "rescued.records")
    )
    assert carried == mirrored and len(carried) == 7 and carried < rescued
