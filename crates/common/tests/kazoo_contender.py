"""Contends for one lock with kazoo, as Zuul and Python Nodepool do.

kazoo_contender.py HOSTS LOCK_DIR COUNTER INSIDE ENOUGH

Under the lock, COUNTER is read and written back plus one, and INSIDE created and deleted again: two holders at once
lose a count or find INSIDE there. After each acquisition the lock is left alone for a random time.

Says `ready` when it is connected and begins at a line on standard input. Says `enough` when it has got the lock ENOUGH
times, and goes on until standard input ends; then prints the number of acquisitions. Fails on a violation.
"""
import random
import sys
import threading
import time

from kazoo.client import KazooClient
from kazoo.exceptions import LockTimeout

hosts, lock_dir, counter, inside, enough = sys.argv[1:]
client = KazooClient(hosts=hosts, timeout=30)
client.start(timeout=60)
print("ready", flush=True)
sys.stdin.readline()
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
acquired = turn = 0
while not over.is_set():
    began = time.monotonic()
    lock = client.Lock(lock_dir, "")
    turn += 1
    if turn % 3 == 0:
        got = lock.acquire(blocking=False)
    else:
        try:
            got = lock.acquire(timeout=60)
        except LockTimeout:
            sys.exit("no lock within 60 s")
    if got:
        client.create(inside, b"kazoo", ephemeral=True)
        value = int(client.get(counter)[0])
        client.set(counter, str(value + 1).encode())
        client.delete(inside)
        lock.release()
        acquired += 1
        if acquired == int(enough):
            print("enough", flush=True)
    # In proportion to what a turn takes, so that the lock is now contended and now free on a machine of any speed.
    time.sleep(random.uniform(0, 2) * (time.monotonic() - began))
client.stop()
print(acquired)
