"""Connections of `requests` that a deadline can cut, new ones and those kept alive."""

from __future__ import annotations

import socket
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from carepos import deadline


class _Plain(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _watched(super()._new_conn())

    def request(self, *args: Any, **more: Any) -> None:
        deadline.watch(self.sock)  # one that was kept alive is opened no more
        super().request(*args, **more)


class _Tls(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _watched(super()._new_conn())  # also while both sides greet each other

    def request(self, *args: Any, **more: Any) -> None:
        deadline.watch(self.sock)  # the plain one inside of TLS has handed its descriptor over
        super().request(*args, **more)


def _watched(connection: socket.socket) -> socket.socket:
    deadline.watch(connection)
    return connection


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _Tls


class WatchedAdapter(HTTPAdapter):
    """As HTTPAdapter; what it opens is shown to `deadline.watch`."""

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
