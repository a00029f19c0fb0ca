"""The demonstration behind `make demo`: ZooKeeper, our builder and launcher on a fake cloud, and one node request.

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
from harness.services import Builder, Launcher, ZooKeeper


def title(text):
    print(f'\n=== {text}', flush=True)


# What disk-image-create would be: it finds what it is to make in its arguments and environment.
BUILD = """#!/bin/sh
echo "building $DIB_IMAGE_NAME: $*"
head -c 1000000 /dev/urandom > "$DIB_IMAGE_FILENAME.qcow2"
"""


class Log:
    """Shows what a daemon has written since the last look."""

    def __init__(self, daemon, path):
        self.daemon, self.path, self.seen = daemon, path, 0

    def show(self):
        lines = self.path.read_text(errors='replace').splitlines()
        for line in lines[self.seen:]:
            print(f'  {self.daemon}| {line[:160]}')
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
        for name in 'images', 'cloud':
            (directory / name).mkdir()
        build = directory / 'build-image'
        build.write_text(BUILD)
        build.chmod(0o755)
        script = directory / 'cloud.json'
        # The cloud's state in files, for both daemons to see.
        script.write_text(json.dumps({'state_dir': str(directory / 'cloud')}))
        env = {'NODEPOOL_FAKE_CLOUD_SCRIPT': str(script)}
        config = directory / 'nodepool.yaml'
        config.write_text(json.dumps({
            **zookeeper.config(),
            'webapp': {'port': port, 'listen_address': '127.0.0.1'},
            'images-dir': str(directory / 'images'), 'build-log-dir': str(directory / 'logs'),
            'labels': [{'name': 'demo-label'}],
            'diskimages': [{'name': 'demo-image', 'dib-cmd': str(build)}],
            'providers': [{
                'name': 'demo-cloud', 'driver': 'fake', 'cloud': 'fake',
                'diskimages': [{'name': 'demo-image'}],
                'pools': [{'name': 'main', 'max-servers': 2, 'labels': [
                    {'name': 'demo-label', 'diskimage': 'demo-image', 'min-ram': 8192}]}],
            }],
        }, indent=2))
        client = zookeeper.client()
        stack.callback(client.stop)
        title('nodepool-builder: builds the image and uploads it to the fake cloud')
        builder = stack.enter_context(Builder(config, directory / 'builder.log', env=env))
        log = Log(' builder', builder.log)

        def uploaded():
            if not builder.running():
                raise SystemExit(f'demo: nodepool-builder ended:\n{builder.tail()}')
            return any(upload['state'] == 'ready' for upload in records.uploads(client).values())
        wait_for('uploaded: demo-image', uploaded, 60)
        log.show()
        nodepool(config, 'build-log', 'demo-image')
        nodepool(config, 'dib-image-list')
        nodepool(config, 'image-list')

        title('nodepool-launcher on the fake cloud')
        launcher = stack.enter_context(Launcher(config, directory / 'launcher.log', env=env))
        log = Log('launcher', launcher.log)

        def ready():
            if not launcher.running():
                raise SystemExit(f'demo: nodepool-launcher ended:\n{launcher.tail()}')
            return get(f'http://127.0.0.1:{port}/ready')[0] == 200
        wait_for('ready: nodepool-launcher', ready, 30)
        log.show()
        print(f'$ curl http://127.0.0.1:{port}/ready\n{get(f"http://127.0.0.1:{port}/ready")[1]}')

        title('A node request, as Zuul writes it')
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
        client.stop()
        for name, daemon in ('nodepool-launcher', launcher), ('nodepool-builder', builder):
            if daemon.stop() != 0:
                raise SystemExit(f'demo: {name} ended with status {daemon.child.returncode}')
    print('\ndemo: done; everything that it started has ended')


if __name__ == '__main__':
    sys.exit(main())
