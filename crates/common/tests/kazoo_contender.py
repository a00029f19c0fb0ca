"""Contends for one lock with kazoo, as Zuul and Python Nodepool do.

kazoo_contender.py HOSTS LOCK_DIR COUNTER INSIDE COUNT

Under the lock, COUNTER is read and written back plus one, and INSIDE created and deleted again: two holders at once
lose a count or find INSIDE there. Prints the number of acquisitions; fails on a violation.
"""
import sys

from kazoo.client import KazooClient
from kazoo.exceptions import LockTimeout

hosts, lock_dir, counter, inside, count = sys.argv[1:]
client = KazooClient(hosts=hosts)
client.start()
acquired = 0
for turn in range(int(count)):
    lock = client.Lock(lock_dir, "")
    if turn % 3 == 0:
        if not lock.acquire(blocking=False):
            continue
    else:
        try:
            lock.acquire(timeout=30)
        except LockTimeout:
            sys.exit("no lock within 30 s")
    client.create(inside, b"kazoo", ephemeral=True)
    value = int(client.get(counter)[0])
    client.set(counter, str(value + 1).encode())
    client.delete(inside)
    lock.release()
    acquired += 1
client.stop()
print(acquired)
