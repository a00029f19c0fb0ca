"""What the pods of the tests find around them: images, ZooKeeper under the operator's name, the config repository over
https behind an authority of the site's own, and the files of the operator's ConfigMaps and Secrets."""
import contextlib
import functools
import http.server
import itertools
import pathlib
import ssl
import subprocess
import threading

from harness import runc, services
from harness.image_builder import ImageBuilder, key

from pod import Pod

HERE = pathlib.Path(__file__).resolve().parent
ZOOKEEPER = 'zookeeper-0.zookeeper-headless.sf.svc.cluster.local'
GIT = 'git-server'
# The user's files of the config repository: without `---`, because they are appended to the operator's part.
LAUNCHER_FILE = '''
labels:
  - name: {label}
providers:
  - name: static
    driver: static
    pools:
      - name: main
        nodes:
          - name: 127.0.0.3
            connection-port: {host.port}
            username: nodepool
            labels: {label}
            host-key: {host.key}
'''
BUILDER_FILE = '''
diskimages:
  - name: {image}
    dib-cmd: /usr/local/bin/dib-ansible image.yaml
    formats: [raw]
'''
INVENTORY = '''
ungrouped:
  hosts:
    image-builder:
      ansible_host: 127.0.0.3
      ansible_port: {host.port}
      ansible_user: nodepool
      ansible_python_interpreter: /usr/bin/python3
'''
# The operator's documented example in its steps: Zuul's public keys there, the build, the image back.
PLAYBOOK = '''
- hosts: image-builder
  tasks:
    - copy:
        src: "/var/lib/{{ item }}/pub"
        dest: "/home/nodepool/{{ item }}"
      loop: [zuul-ssh-key, zuul-spare-ssh-key]
    - shell: cat zuul-ssh-key zuul-spare-ssh-key > image
      args: {chdir: /home/nodepool}
    - ansible.posix.synchronize:
        mode: pull
        src: /home/nodepool/image
        dest: "{{ image_output }}.raw"
      when: raw_type | default(false)
'''
# As the operator's: each line gets a prefix; it refuses any other ansible-core.
CALLBACK = '''
from ansible.plugins.callback.default import CallbackModule as Default
from ansible.release import __version__

DOCUMENTATION = """
name: timestamp
type: stdout
short_description: default output with a prefix
extends_documentation_fragment: [default_callback]
"""
if not __version__.startswith('2.16.'):
    raise RuntimeError(f'written for ansible-core 2.16, not for {__version__}')


class CallbackModule(Default):
    CALLBACK_TYPE = 'stdout'
    CALLBACK_NAME = 'timestamp'

    def __init__(self):
        super().__init__()
        display = self._display.display
        self._display.display = lambda text, *more, **named: display(f'callback was here | {text}', *more, **named)
'''


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Site:
    def __init__(self, directory):
        self.directory = directory
        self.pods = itertools.count()
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.launcher = stack.enter_context(contextlib.closing(runc.Image('nodepool-launcher')))
            self.builder = stack.enter_context(contextlib.closing(runc.Image('nodepool-builder')))
            self.zookeeper = stack.enter_context(services.ZooKeeper(self.directory / 'zookeeper', tls_port=2281))
            self.certificates()
            self.secrets = self.directory / 'secrets'
            self.secrets.mkdir()
            self.public = {name: key(self.secrets / name) for name in ('nodepool', 'zuul', 'zuul-spare')}
            self.host = stack.enter_context(ImageBuilder(self.directory / 'host', self.public['nodepool']))
            self.repository = self.directory / 'served' / 'config'
            self.work = self.directory / 'work'
            git('init', '--quiet', '--bare', '--initial-branch=master', self.repository)
            git('init', '--quiet', '--initial-branch=master', self.work)
            git('-C', self.work, 'remote', 'add', 'origin', self.repository)
            self.commit()
            self.url = stack.enter_context(self.served())
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        self.stack.close()

    def certificates(self):
        """The site's own authority, and a certificate of its git server."""
        tls = self.directory / 'tls'
        tls.mkdir()
        self.ca, self.ca_der, self.cert, self.key = (tls / name for name in ('ca.pem', 'ca.der', 'git.pem', 'git.key'))
        run = functools.partial(subprocess.run, cwd=tls, check=True, stderr=subprocess.DEVNULL)
        run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=site authority',
             '-addext', 'basicConstraints=critical,CA:TRUE', '-keyout', 'ca.key', '-out', 'ca.pem'])
        run(['openssl', 'x509', '-in', 'ca.pem', '-outform', 'DER', '-out', 'ca.der'])
        run(['openssl', 'req', '-newkey', 'rsa:2048', '-nodes', '-subj', f'/CN={GIT}', '-keyout', 'git.key', '-out', 'git.csr'])
        (tls / 'names').write_text(f'subjectAltName=DNS:{GIT}\n')
        run(['openssl', 'x509', '-req', '-in', 'git.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2',
             '-extfile', 'names', '-out', 'git.pem'])

    @contextlib.contextmanager
    def served(self):
        """The repository over https; git reads files."""
        handler = functools.partial(Quiet, directory=str(self.repository.parent))
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f'https://{GIT}:{server.server_port}'
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def commit(self, label='a-label', image=None):
        """A change of the config repository: what the launcher serves, and what the builder builds."""
        files = self.work / 'nodepool'
        (files / 'dib-ansible').mkdir(parents=True, exist_ok=True)
        (files / 'nodepool.yaml').write_text(LAUNCHER_FILE.format(label=label, host=self.host))
        (files / 'nodepool-builder.yaml').write_text(BUILDER_FILE.format(image=image) if image else 'diskimages: []\n')
        (files / 'dib-ansible' / 'image.yaml').write_text(PLAYBOOK)
        (files / 'dib-ansible' / 'inventory.yaml').write_text(INVENTORY.format(host=self.host))
        git('-C', self.work, 'add', '.')
        git('-C', self.work, '-c', 'user.name=site', '-c', 'user.email=site@example.org', 'commit', '--quiet',
            '--allow-empty', '-m', f'{label} {image}')
        git('-C', self.work, 'push', '--quiet', 'origin', 'HEAD:master')
        git('-C', self.repository, 'update-server-info')

    def head(self):
        return git('-C', self.work, 'rev-parse', 'HEAD').strip()

    def builders(self):
        """The builders that are registered."""
        client = self.zookeeper.client()
        path = '/nodepool/components/builder'
        try:
            return client.get_children(path) if client.exists(path) else []
        finally:
            client.stop()
            client.close()

    def pod(self, image, uid, repository):
        made = Pod(self.directory / f'pod-{next(self.pods)}', image, uid, hosts=(ZOOKEEPER, GIT))
        made.env = {'CONFIG_REPO_SET': repository, 'HOME': '/var/lib/nodepool', 'STATSD_HOST': 'localhost',
                    'STATSD_PORT': '9125'}
        if repository == 'TRUE':
            made.env |= {'CONFIG_REPO_BASE_URL': self.url, 'CONFIG_REPO_NAME': 'config'}
        made.mount('/etc/nodepool/', made.empty_dir('nodepool-config'), writable=True)
        made.mount('/etc/pki/ca-trust/extracted', made.empty_dir('nodepool-ca'), writable=True)
        made.mount('/var/lib/nodepool', made.empty_dir('nodepool-home'), writable=True)
        for name in ('generate-config.sh', 'fetch-config-repo.sh'):
            made.mount(f'/usr/local/bin/{name}', made.file(name, (HERE / 'operator' / name).read_text(), 0o755))
        return made

    def init_mounts(self, made):
        script = made.file('init-container.sh', (HERE / 'operator/init-container.sh').read_text(), 0o755)
        return [('/usr/local/bin/init-container.sh', script),
                ('/usr/share/pki/ca-trust-source/anchors/site.crt', self.ca)]

    def main_mounts(self, made):
        tls = [(f'/tls/client/{name}', made.file(name, source.read_text())) for name, source in (
            ('ca.crt', self.zookeeper.ca), ('tls.crt', self.zookeeper.cert),
            # PKCS#8 in a block labelled RSA PRIVATE KEY, as the operator writes it.
            ('tls.key', self.zookeeper.ca.parent / 'client-operator.key'))]
        logging = made.file('logging.yaml', (HERE / 'operator/logging.yaml').read_text())
        return [*tls, ('/etc/nodepool-logging/logging.yaml', logging)]

    def builder_mounts(self, made):
        """What the operator mounts beside that. Keys are readable for all, because they are root's."""
        ssh_config = ('Host *\n  IdentityFile /var/lib/nodepool-ssh-key/priv\n'
                      '  UserKnownHostsFile /var/lib/nodepool/known_hosts\n  ServerAliveInterval 60\n')
        private = (self.secrets / 'nodepool').read_text()
        return [
            ('/var/lib/nodepool-ssh-key/priv', made.file('priv', private, 0o444)),
            ('/var/lib/nodepool-ssh-key/pub', made.file('pub', self.public['nodepool'], 0o444)),
            ('/var/lib/zuul-ssh-key/pub', made.file('zuul', self.public['zuul'], 0o444)),
            ('/var/lib/zuul-spare-ssh-key/pub', made.file('zuul-spare', self.public['zuul-spare'], 0o444)),
            ('/var/lib/nodepool/.ssh/config', made.file('ssh_config', ssh_config, 0o755)),
            ('/etc/ansible/ansible.cfg', made.file('ansible.cfg', '[defaults]\nstdout_callback = timestamp\n')),
            ('/usr/share/ansible/plugins/callback/timestamp.py', made.file('timestamp.py', CALLBACK)),
        ]

    def wrapper_mount(self, made):
        """The operator's dib-ansible over that of the image."""
        script = (HERE / 'operator/dib-ansible.py').read_text()
        return [('/usr/local/bin/dib-ansible', made.file('dib-ansible.py', script, 0o755))]


def git(*words):
    return subprocess.run(['git', *map(str, words)], check=True, stdout=subprocess.PIPE, text=True).stdout
