"""See run: the world that the browser looks at, and what its tests ask to happen there."""
import http.client
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

# The harness stands beside this directory.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import free_port, records, wait_for  # noqa: E402
from harness.services import Launcher, ZooKeeper  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
PREFIX = '/nodepool/api'
NODES, REQUESTS = 6000, 10000
# Of a name that would be a script, were it ever more than text.
HOSTILE = '<img src=x onerror=alert(1)>'


def provider(name, labels, servers, **more):
    label = {'cloud-image': 'image', 'min-ram': 8192}
    return {'name': name, 'driver': 'fake', 'cloud': 'fake', 'launch-retries': 1, **more,
            'cloud-images': [{'name': 'image', 'image-id': 'fake-image-id', 'username': 'zuul'}],
            'pools': [{'name': 'main', 'max-servers': servers, 'labels': [{'name': name, **label} for name in labels]}]}


def config(zookeeper):
    with_image = provider('east', ['debian-trixie'], 5)
    with_image['diskimages'] = [{'name': 'debian-trixie'}]
    with_image['pools'][0]['labels'] = [{'name': 'debian-trixie', 'diskimage': 'debian-trixie', 'min-ram': 8192}]
    labels = ['debian-trixie', 'ubuntu-noble', 'ubuntu-noble-large', 'centos-10']
    return {**zookeeper.config(), 'labels': [{'name': name} for name in labels], 'diskimages': [{'name': 'debian-trixie'}],
            'providers': [provider('north', ['ubuntu-noble', 'ubuntu-noble-large'], 2), provider('south', ['centos-10'], 3), with_image]}


class World:
    """What the tests ask for by `/control/...`."""

    def __init__(self, client):
        self.client = client

    def request(self, label):
        return records.submit(self.client, [label], requestor='zuul')

    def release(self, request):
        records.release(self.client, request)
        return 'ok'

    def fill(self):
        """Many nodes of another launcher's, and many requests."""
        now = time.time()
        states = ['ready', 'in-use', 'hold', 'ready', 'ready']

        def node(number):
            data = {'state': states[number % 5], 'state_time': now - number, 'created_time': now - number, 'provider': f'far-{number % 7}',
                    'pool': 'main', 'type': [f'label-{number % 30}'], 'interface_ip': f'10.0.{number // 250}.{number % 250}'}
            return '/nodepool/nodes/%010d' % (900000 + number), data

        def request(number):
            label = ['ubuntu-noble', 'centos-10', 'ubuntu-noble-large'][number % 3]
            data = {'requestor': 'zuul', 'requestor_data': None, 'tenant_name': f'tenant-{number % 9}', 'provider': None,
                    'state': 'requested', 'state_time': now, 'created_time': now, 'relative_priority': number % 50,
                    'node_types': [label], 'nodes': [], 'reuse': True, 'declined_by': [], 'event_id': f'{number:032x}'}
            return '/nodepool/requests/300-%010d' % (500000 + number), data

        everything = [node(n) for n in range(NODES)] + [request(n) for n in range(REQUESTS)]
        for start in range(0, len(everything), 200):
            transaction = self.client.transaction()
            for path, data in everything[start:start + 200]:
                transaction.create(path, json.dumps(data).encode())
            transaction.commit()
        return 'ok'


def gateway(upstream, world):
    """A server that leads PREFIX to the launcher without it, and knows nothing else but what the tests ask for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def log_message(self, *_):
            pass

        def answer(self, status, body=b''):
            self.send_response(status)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            url = urllib.parse.urlsplit(self.path)
            if url.path.startswith('/control/'):
                arguments = dict(urllib.parse.parse_qsl(url.query))
                return self.answer(200, str(getattr(world, url.path.removeprefix('/control/'))(**arguments)).encode())
            if not self.path.startswith(PREFIX + '/'):
                return self.answer(404)
            connection = http.client.HTTPConnection('127.0.0.1', upstream)
            try:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ('host', 'connection')}
                connection.request('GET', self.path.removeprefix(PREFIX), headers=headers)
                answer = connection.getresponse()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ('transfer-encoding', 'content-length', 'connection', 'date'):
                        self.send_header(name, value)
                self.send_header('Transfer-Encoding', 'chunked')
                self.end_headers()
                if answer.status == 304:
                    return None
                while chunk := answer.read1(65536):
                    self.wfile.write(b'%x\r\n%s\r\n' % (len(chunk), chunk))
                self.wfile.write(b'0\r\n\r\n')
            except OSError:
                self.close_connection = True
            finally:
                connection.close()
            return None

    server = http.server.ThreadingHTTPServer(('127.0.0.1', free_port()), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main():
    modules, *pictures = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix='nodepool-dashboard-') as directory:
        directory = pathlib.Path(directory)
        with ZooKeeper(directory / 'zookeeper') as zookeeper:
            client = zookeeper.client()
            client.ensure_path('/nodepool/requests')
            client.ensure_path('/nodepool/nodes')
            now = time.time()
            failed = {'state': 'failed', 'state_time': now - 3600, 'builder': 'builder-1', 'formats': ['qcow2']}
            client.create('/nodepool/images/debian-trixie/builds/0000000001', json.dumps(failed).encode(), makepath=True)
            records.create_node(client, '0000000777', state='hold', state_time=now - 3 * 86400, provider='north', pool='main',
                                type=['ubuntu-noble'], hold_job=HOSTILE)
            client.create('/nodepool/nodes/0000000777/lock/00000000000000000000000000000000__lock__0000000001', makepath=True)
            (directory / 'nodepool.yaml').write_text(json.dumps(config(zookeeper)))
            (directory / 'script.json').write_text('{}')
            port = free_port()
            launcher = Launcher(directory / 'nodepool.yaml', directory / 'launcher.log', debug=False,
                                env={'NODEPOOL_FAKE_CLOUD_SCRIPT': str(directory / 'script.json')},
                                arguments=['--web-address', '127.0.0.1', '--web-port', str(port)])
            with launcher:
                def ready():
                    assert launcher.running(), launcher.tail()
                    try:
                        return urllib.request.urlopen(f'http://127.0.0.1:{port}/ready').status == 200
                    except OSError:
                        return False
                wait_for('ready: the launcher', ready)
                server = gateway(port, World(client))
                base = f'http://127.0.0.1:{server.server_port}'
                environment = {**os.environ, 'BASE': base, 'PREFIX': PREFIX, 'DIRECT': f'http://127.0.0.1:{port}', 'HOSTILE': HOSTILE,
                               'MODULES': modules, 'PROFILE': str(directory / 'chromium'), 'PICTURES': ''.join(pictures)}
                status = subprocess.run(['node', HERE / 'check.mjs'], env=environment, timeout=240).returncode
                if status:
                    print(f'The launcher said last:\n{launcher.tail(20)}')
                server.shutdown()
            client.stop()
    return status


sys.exit(main())
