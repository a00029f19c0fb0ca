"""Removes builds as Python Nodepool does (zk/zookeeper.py deleteUpload, deleteBuild), as soon as it sees them.

kazoo_remover.py HOSTS IMAGE_DIR COUNT SECONDS

Marks each build, removes its uploads, then the build with all below it. Fails where that finds something that was put there
meanwhile, or where there were not so many in so many seconds. Prints how many builds it has removed.
"""
import json
import sys
import time

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError, NotEmptyError

hosts, image, count, seconds = sys.argv[1:]
client = KazooClient(hosts=hosts, timeout=30)
client.start(timeout=60)


def children(path):
    try:
        return [child for child in client.get_children(path) if child != 'lock']
    except NoNodeError:
        return []


removed = 0
deadline = time.monotonic() + int(seconds)
while removed < int(count):
    if time.monotonic() > deadline:
        sys.exit(f'only {removed} builds within {seconds} s')
    for build in children(f'{image}/builds'):
        path = f'{image}/builds/{build}'
        # Some while ours begins to upload it.
        time.sleep(removed % 4 * 0.002)
        try:
            data = client.get(path)[0]
            if not data:
                # Who puts something below a build that is gone makes it anew, without a record.
                sys.exit(f'after {removed} builds something was put below {build} when it was gone')
            record = json.loads(data)
            if record['state'] != 'deleting':
                client.set(path, json.dumps({**record, 'state': 'deleting'}).encode())
            for provider in children(f'{path}/providers'):
                for upload in children(f'{path}/providers/{provider}/images'):
                    client.delete(f'{path}/providers/{provider}/images/{upload}', recursive=True)
            client.delete(path, recursive=True)
        except NoNodeError:
            continue
        except NotEmptyError:
            sys.exit(f'after {removed} builds something was put below {build}: it has {children(path)}')
        removed += 1
client.stop()
print(removed)
