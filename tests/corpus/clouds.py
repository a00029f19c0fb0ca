#!/usr/bin/env python3
"""clouds.yaml as sites have it: what openstacksdk sends to Keystone, and what our launcher sends, to the byte.

  clouds.py [FILE…]

Each file of tests/corpus/clouds is given to the installed openstacksdk, as Nodepool's openstack driver uses it, and to our
launcher, which logs in without waiting for ZooKeeper. A Keystone on loopback keeps what is sent to POST /v3/auth/tokens; in
the files it is called http://keystone.example. The bodies are compared as canonical JSON. Comments of a file may say:

  # expect: refused     neither logs in
  # expect: only ours   openstacksdk refuses the cloud or is refused, ours warns and logs in
  # expect: only python the other way round
  # expect: both        (default) both send the same
  # ours: TEXT          what our log must contain, as often as there are such lines
  # region: NAME        region-name of the provider
  # cloud: NAME         its cloud; without it the provider names `c`
  # env: NAME=VALUE     a variable of both; {dir} is the file's directory
  # file: NAME          what follows is another file of that directory

Beside that, the profiles that the driver carries are compared with those of the SDK. Runs with the interpreter of
`tests/setup test`; needs our built launcher (NODEPOOL_LAUNCHER_BIN, default target/debug). Starts nothing else. The last
line is `N passed, N failed, N skipped`.
"""
import concurrent.futures
import contextlib
import http.server
import json
import os
import pathlib
import re
import sys
import tempfile
import threading
import traceback
import warnings

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from harness import ROOT, VENV, binary, wait_for  # noqa: E402
from harness.services import Process  # noqa: E402

if pathlib.Path(sys.prefix) != VENV and (VENV / 'bin/python').exists():
    os.execv(VENV / 'bin/python', [VENV / 'bin/python', *sys.argv])

import yaml  # noqa: E402
from openstack.config import loader, vendors  # noqa: E402

PLACEHOLDER = 'http://keystone.example'
NODEPOOL = '''
zookeeper-servers: [{host: 127.0.0.1, port: 1}]
labels: [{name: l}]
providers:
  - name: p
    driver: openstack
    %s
    cloud-images: [{name: im}]
    pools: [{name: main, max-servers: 1, labels: [{name: l, cloud-image: im, flavor-name: small}]}]
'''
# What our log says of a cloud that it cannot use.
REFUSED = re.compile(r'Provider p .*(cannot start|cannot be used)')


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        # A launcher that is stopped leaves its connection.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Keystone:
    """Identity v3 as far as a login needs it, and a vendor's published profile. Keeps the bodies of logins."""

    def __init__(self):
        keystone = self
        self.bodies = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def log_message(self, *_):
                pass

            def answer(self, status, body, **headers):
                data = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {'Content-Length': len(data), 'Content-Type': 'application/json', **headers}.items():
                    self.send_header(name.replace('_', '-'), str(value))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                if self.path == '/.well-known/openstack/api':
                    self.answer(200, {'name': 'published', 'profile': {
                        'auth': {'auth_url': keystone.url, 'user_domain_name': 'Published',
                                 'project_domain_name': 'Published'},
                        'regions': ['there', 'elsewhere'], 'profile': 'http://127.0.0.1:1'}})
                    return
                version = {'id': 'v3.14', 'status': 'stable', 'links': [{'rel': 'self', 'href': keystone.url + '/v3/'}]}
                if self.path.startswith('/v3'):
                    self.answer(200, {'version': version})
                else:
                    self.answer(300, {'versions': {'values': [version]}})

            def do_POST(self):
                body = self.rfile.read(int(self.headers['Content-Length']))
                if self.path != '/v3/auth/tokens':
                    self.answer(404, {})
                    return
                body = json.loads(body)
                if 'scope' in body['auth'] and 'application_credential' in body['auth']['identity']:
                    # As the real one does.
                    self.answer(401, {'error': {'code': 401, 'title': 'Unauthorized', 'message':
                                                'Application credentials cannot request a scope.'}})
                    return
                keystone.bodies.append(body)
                compute = {'interface': 'public', 'region': 'R', 'region_id': 'R', 'url': keystone.url + '/v2.1'}
                self.answer(201, {'token': {
                    'methods': ['password'], 'issued_at': '2026-01-01T00:00:00.000000Z',
                    'expires_at': '2099-01-01T00:00:00.000000Z', 'project': {'id': 'p', 'name': 'p'},
                    'user': {'id': 'u', 'name': 'u', 'domain': {'id': 'd', 'name': 'd'}},
                    'catalog': [{'type': 'compute', 'endpoints': [compute]}]}}, X_Subject_Token='t')

        self.server = Server(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Case:
    """A file, what its comments say, and a directory with a copy of it that names a Keystone."""

    def __init__(self, path, directory, keystone):
        text, *others = re.split(r'^# file: (.*)$', path.read_text(), flags=re.M)
        for name, content in zip(others[::2], others[1::2]):
            (directory / name).write_text(content)
        said = re.findall(r'^# (expect|ours|region|cloud|env): (.*)$', text, re.M)
        first = dict(reversed(said))
        self.expect = first.get('expect', 'both')
        self.ours = [value for key, value in said if key == 'ours']
        self.keystone = keystone
        self.directory = directory
        self.file = directory / 'clouds.yaml'
        self.file.write_text(text.replace(PLACEHOLDER, keystone.url))
        self.provider = {'cloud': first.get('cloud', 'c')}
        if self.provider['cloud'] == '(none)':
            self.provider = {}
        if 'region' in first:
            self.provider['region-name'] = first['region']
        self.env = {'OS_CLIENT_CONFIG_FILE': str(self.file), 'HOME': str(directory)}
        for key, value in said:
            if key == 'env':
                name, _, value = value.partition('=')
                self.env[name] = value.replace(PLACEHOLDER, keystone.url).replace('{dir}', str(directory))


@contextlib.contextmanager
def environment(variables):
    """The process's own environment, for what reads it."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith('OS_'):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def with_sdk(case):
    """What openstacksdk sends, and why it sends nothing."""
    vendors._VENDOR_DEFAULTS.clear()
    why = ''
    with environment(case.env), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            region = loader.OpenStackConfig().get_one(**case.provider)
            session = region.get_session()
            session.auth.get_access(session)
        except Exception:
            why = traceback.format_exc(limit=0).strip()
    return case.keystone.bodies, why


def with_ours(case):
    """What our launcher sends, and its log."""
    config = case.directory / 'nodepool.yaml'
    config.write_text(NODEPOOL % json.dumps(case.provider)[1:-1].replace('", "', '"\n    "'))
    variables = {name: value for name, value in os.environ.items() if not name.startswith('OS_')}
    variables |= case.env
    log = case.directory / 'launcher.log'
    launcher = Process([binary('nodepool-launcher'), '-c', config, '-d', '--no-webapp'], log, variables,
                       cwd=case.directory)
    launcher.start()
    try:
        def done():
            text = log.read_text(errors='replace')
            return case.keystone.bodies or REFUSED.search(text) or not launcher.running()
        wait_for('a login or a refusal', done, timeout=60)
    finally:
        launcher.stop()
    return case.keystone.bodies, log.read_text(errors='replace')


def compare(path, theirs, why, ours, log, case):
    """What is wrong; nothing, if nothing is."""
    canonical = lambda body: json.dumps(body, sort_keys=True)  # noqa: E731
    theirs, ours = [canonical(body) for body in theirs[:1]], [canonical(body) for body in ours[:1]]
    said = [f'openstacksdk: {theirs or why}', f'ours:         {ours or log}']
    right = {
        'both': bool(theirs) and theirs == ours,
        'refused': not theirs and not ours,
        'only ours': not theirs and bool(ours),
        'only python': bool(theirs) and not ours,
    }[case.expect]
    if not right:
        return [f'expected {case.expect}:', *said]
    return [f'our log lacks {text!r}:\n{log}' for text in case.ours if text not in log]


def vendors_differ():
    """The profiles that the driver carries beside those of the SDK."""
    ours = yaml.safe_load((ROOT / 'crates/drivers/src/openstack/client/settings/vendors.yaml').read_text())
    vendors._VENDOR_DEFAULTS.clear()
    theirs = vendors._get_vendor_defaults()
    return [f'profile {name}:\n  openstacksdk: {theirs.get(name)}\n  ours:         {ours.get(name)}'
            for name in sorted(set(ours) | set(theirs)) if ours.get(name) != theirs.get(name)]


def main():
    files = [pathlib.Path(name) for name in sys.argv[1:]] or sorted((HERE / 'clouds').glob('*.yaml'))
    failures = 0
    with tempfile.TemporaryDirectory() as directory, concurrent.futures.ThreadPoolExecutor(4) as pool:
        def prepared(path, side):
            place = pathlib.Path(directory, side, path.stem)
            place.mkdir(parents=True)
            return Case(path, place, Keystone())
        started = [(path, pool.submit(with_ours, prepared(path, 'ours'))) for path in files]
        for path, running in started:
            case = prepared(path, 'sdk')
            theirs, why = with_sdk(case)
            # Each has a Keystone of its own: their addresses are no part of a body.
            try:
                ours, log = running.result()
                wrong = compare(path, theirs, why, ours, log, case)
            except TimeoutError as error:
                wrong = [str(error)]
            failures += bool(wrong)
            print(f'{path.name}: {"failed" if wrong else "passed"}', *wrong, sep='\n  ', flush=True)
    wrong = vendors_differ()
    failures += bool(wrong)
    print(f'profiles of vendors: {"failed" if wrong else "passed"}', *wrong, sep='\n  ')
    print(f'{len(files) + 1 - failures} passed, {failures} failed, 0 skipped')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
