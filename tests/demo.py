"""The demonstration behind `make demo`: ZooKeeper, our launcher on its fake cloud, and one node request.

Ends everything that it started. Runs on Debian's own Python and kazoo.
"""
import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from harness import binary, free_port, records, wait_for
from harness.services import Launcher, ZooKeeper


def title(text):
    print(f'\n=== {text}', flush=True)


class Log:
    """Shows what the launcher has written since the last look."""

    def __init__(self, path):
        self.path, self.seen = path, 0

    def show(self):
        lines = self.path.read_text(errors='replace').splitlines()
        for line in lines[self.seen:]:
            print(f'  launcher| {line[:160]}')
        self.seen = len(lines)


def nodepool(config, *arguments):
    command = [str(binary('nodepool')), '-c', str(config), *arguments]
    print(f'$ nodepool {" ".join(arguments)}')
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    print(done.stdout, end='')
    if done.returncode:
        print(done.stderr, end='')
        raise SystemExit(f'demo: nodepool {arguments[0]} ended with status {done.returncode}')


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.reason
    except OSError:
        return None, ''


def main():
    # An end from outside still ends what this script started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='np-demo-')))
        title('ZooKeeper, with TLS')
        zookeeper = stack.enter_context(ZooKeeper(directory / 'zookeeper'))
        print(f'127.0.0.1:{zookeeper.tls_port}')
        port = free_port()
        config = directory / 'nodepool.yaml'
        config.write_text(json.dumps({
            **zookeeper.config(),
            'webapp': {'port': port, 'listen_address': '127.0.0.1'},
            'labels': [{'name': 'demo-label'}],
            'providers': [{
                'name': 'demo-cloud', 'driver': 'fake', 'cloud': 'fake',
                'cloud-images': [{'name': 'demo-image', 'image-id': 'fake-image-id', 'username': 'zuul'}],
                'pools': [{'name': 'main', 'max-servers': 2, 'labels': [
                    {'name': 'demo-label', 'cloud-image': 'demo-image', 'min-ram': 8192}]}],
            }],
        }, indent=2))
        title('nodepool-launcher on the fake cloud')
        launcher = stack.enter_context(Launcher(config, directory / 'launcher.log'))
        log = Log(launcher.log)

        def ready():
            if not launcher.running():
                raise SystemExit(f'demo: nodepool-launcher ended:\n{launcher.tail()}')
            return get(f'http://127.0.0.1:{port}/ready')[0] == 200
        wait_for('ready: nodepool-launcher', ready, 30)
        log.show()
        print(f'$ curl http://127.0.0.1:{port}/ready\n{get(f"http://127.0.0.1:{port}/ready")[1]}')

        title('A node request, as Zuul writes it')
        client = zookeeper.client()
        stack.callback(client.stop)
        started = time.monotonic()
        history = []
        request_id = records.submit(client, ['demo-label'], requestor='make demo')

        def fulfilled():
            state = (records.request(client, request_id) or {}).get('state')
            if not history or history[-1][1] != state:
                history.append((time.monotonic() - started, state))
            return state in ('fulfilled', 'failed')
        wait_for(f'fulfilled: request {request_id}', fulfilled, 30, interval=0.002)
        print(f'request {request_id}: ' + ', '.join(f'{state} after {at:.3f} s' for at, state in history))
        log.show()
        request = records.request(client, request_id)
        if request['state'] != 'fulfilled':
            raise SystemExit(f'demo: the request ended {request["state"]}, declined by {request["declined_by"]}')
        nodepool(config, 'request-list')
        nodepool(config, 'list')

        title('The node is used up and given back')
        [node_id] = request['nodes']
        records.release(client, request_id)
        wait_for(f'deleted: node {node_id}', lambda: node_id not in records.nodes(client), 30)
        log.show()
        nodepool(config, 'list')
        title('Not shown: images. nodepool-builder is not built yet; labels here boot from an image that is in the cloud')
        client.stop()
        if launcher.stop() != 0:
            raise SystemExit(f'demo: nodepool-launcher ended with status {launcher.child.returncode}')
    print('\ndemo: done; everything that it started has ended')


if __name__ == '__main__':
    sys.exit(main())
