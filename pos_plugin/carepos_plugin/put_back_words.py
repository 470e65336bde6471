"""What people read when a till that was put back finds on its second disk what it has forgotten."""

from __future__ import annotations

import logging
from typing import Any

from carepos import put_back
from carepos.journal_view import JournalView
from carepos.put_back import Lost
from carepos_plugin.offline_words import priced
from carepos_plugin.sentences import said

_log = logging.getLogger(__name__)


def put_back_said(journal: JournalView) -> dict[str, Any] | None:
    """`{"may_sell_on", "folders": [{"folder", "records", "from_sequence", "to_sequence", "sold"}],
    "en", "zh"}` while the till gives out nothing without the ledger for it, else null.
    `may_sell_on`: whether the office's word ends it; else only a new till does."""
    found = put_back.holding_back(journal)
    if not found:
        return None
    told = [_told(each) for each in found]
    if may_sell_on := not any(each.sold for each in found):
        end_en = (
            "Show them to the programme's office; when it lets this till sell on: "
            "carepos till sell-on."
        )
        end_zh = "请交项目办公室查看，办公室同意后运行 carepos till sell-on。"
    else:
        end_en = (
            "Export them and give them to the programme's office before this till is used, and "
            "enrol a new till in another folder."
        )
        end_zh = "请先导出并交给项目办公室，再停用本终端，在另一文件夹注册新终端。"
    return {
        "may_sell_on": may_sell_on,
        "folders": [_shown(each) for each in found],
        **said(
            "This till was put back from a backup and has forgotten records that its second disk "
            f"holds: {' '.join(en for en, _ in told)} Until that is settled it sells nothing "
            f"without a network. {end_en}",
            "本终端曾用备份还原，第二块磁盘上有它已不知道的记录："
            f"{''.join(zh for _, zh in told)}了结之前断网时无法核销。{end_zh}",
        ),
    }


def _shown(found: Lost) -> dict[str, Any]:
    return {
        "folder": found.folder,
        "records": found.records,
        "from_sequence": found.from_sequence,
        "to_sequence": found.to_sequence,
        "sold": [
            {"currency": currency, "count": count, "amount_minor": minor}
            for currency, (count, minor) in sorted(found.sold.items())
        ],
    }


def _told(found: Lost) -> tuple[str, str]:
    count = sum(count for count, _ in found.sold.values())
    sums = [
        priced(minor, currency) for currency, (_, minor) in sorted(found.sold.items()) if currency
    ]
    many = "1 record" if found.records == 1 else f"{found.records} records"
    with_en = with_zh = ""
    if found.sold:
        sales = "1 sale" if count == 1 else f"{count} sales"
        with_en = ", ".join(["", f"with {sales} without a network", *sums])
        with_zh = "、".join([f"，含离线单{count}笔", *sums])
    return (
        f"{many}{with_en}, in {found.folder}.",
        f"{found.folder} 中{found.records}条{with_zh}。",
    )


class Log:
    """Says it in the plugin's log, once whenever it is found; the folder's name stays out of it."""

    def __init__(self, journal: JournalView) -> None:
        self._journal = journal
        self._is_said = False

    def look(self) -> None:
        is_held_back = bool(put_back.holding_back(self._journal))
        if is_held_back and not self._is_said:
            _log.warning(
                "this till was put back from a backup and has forgotten records that its second "
                "disk holds: it sells nothing without a network; see carepos till status"
            )
        self._is_said = is_held_back
