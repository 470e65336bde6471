"""A loader in a process of its own: `python -m benchmarks.load PORT CLIENTS FILE` → JSON.

FILE holds one request body a line. Each client keeps one connection and waits for each answer.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    port, clients = int(sys.argv[1]), int(sys.argv[2])
    bodies = Path(sys.argv[3]).read_bytes().splitlines()
    latencies: list[float] = []
    failures: list[str] = []
    start = threading.Barrier(clients + 1)

    def client(mine: list[bytes]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.connect()
        start.wait()
        for body in mine:
            began = time.perf_counter()
            connection.request("POST", "/v1/records", body, {"Content-Type": "application/json"})
            answer = connection.getresponse().read()
            latencies.append(time.perf_counter() - began)
            if b'"outcome"' not in answer:
                failures.append(answer[:200].decode("utf-8", "replace"))

    threads = [threading.Thread(target=client, args=(bodies[n::clients],)) for n in range(clients)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - began
    json.dump({"seconds": spent, "latencies": latencies, "failures": failures[:3]}, sys.stdout)


if __name__ == "__main__":
    main()
