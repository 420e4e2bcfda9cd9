"""`python -m tests.attack.pulse HOST PORT` asks whether a server lives until its input ends.

It prints the longest wait for an answer, in seconds. It is a process of its own, so that it does
not wait for an attacker who shares its interpreter.
"""

import http.client
import select
import sys
import time


def main() -> None:
    """Ask ten times a second."""
    host, port = sys.argv[1], int(sys.argv[2])
    longest = 0.0
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        started = time.monotonic()
        connection = http.client.HTTPConnection(host, port, timeout=30)
        try:
            connection.request("GET", "/health/live")
            if connection.getresponse().status != http.client.OK:
                longest = float("inf")
        except OSError:
            longest = float("inf")
        finally:
            connection.close()
        longest = max(longest, time.monotonic() - started)
    print(longest)


if __name__ == "__main__":
    main()
