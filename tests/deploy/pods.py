"""The trial's pods, run for real but for their images (sandbox.py): what a person sees who follows the document."""
import pathlib
import time
import urllib.error
import urllib.request

import yaml

from checks import DEPLOY, check, named_object, need_root, run
from harness import CACHE, wait_for
from sandbox import Runtime, Volumes, container_of


def zookeeper_command(classes):
    """What the image's start script comes to."""
    return ['java', '-Xmx512m', '-cp', f'/conf:{classes}/*', '-Dlogback.configurationFile=/conf/logback.xml',
            'org.apache.zookeeper.server.quorum.QuorumPeerMain', '/conf/zoo.cfg']


def get(url):
    """Status and text; (None, error) where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return None, str(error)


class Trial:
    def __init__(self, objects, directory, images):
        need_root()
        self.directory = pathlib.Path(directory)
        self.launcher = named_object(objects, 'Deployment', 'nodepool-launcher')
        self.builder = named_object(objects, 'StatefulSet', 'nodepool-builder')
        self.zookeeper = named_object(objects, 'StatefulSet', 'zookeeper')
        self.runtime = Runtime(self.directory / 'containers', ['zookeeper'], images)
        made = self.directory / 'certificates'
        run(DEPLOY / 'zookeeper-certificates', made)
        run('ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', self.directory / 'key')
        files = lambda d, *names: {n: (d / n).read_bytes() for n in names}  # noqa: E731
        secrets = {
            'zookeeper-server-tls': files(made / 'server', 'ca.crt', 'tls-combined.pem'),
            'zookeeper-client-tls': files(made / 'client', 'ca.crt', 'tls.crt', 'tls.key'),
            'nodepool-builder-ssh-key': {'priv': (self.directory / 'key').read_bytes(),
                                         'pub': (self.directory / 'key.pub').read_bytes()}}
        self.volumes = Volumes(self.directory / 'volumes', objects, secrets)
        self.volumes.made = {
            w['metadata']['name']: self.volumes.of(w['metadata']['name'], w['spec']['template'],
                                                   w['spec'].get('volumeClaimTemplates', ()))
            for w in (self.launcher, self.builder, self.zookeeper)}
        [container] = self.launcher['spec']['template']['spec']['containers']
        self.probes = {kind: container[f'{kind}Probe']['httpGet'] for kind in ('readiness', 'liveness')}
        self.ports = {p['name']: p['containerPort'] for p in container['ports']}
        self.started = {}

    def container(self, workload, which, **options):
        return container_of(self.runtime, self.volumes, workload, which, **options)

    def probe(self, kind):
        probe = self.probes[kind]
        return get(f'http://127.0.0.1:{self.ports[probe["port"]]}{probe["path"]}')

    def starts(self):
        """The launcher starts without ZooKeeper: it is alive and not ready."""
        launcher = self.started['launcher'] = self.container(self.launcher, 'launcher')
        began = time.monotonic()
        launcher.start()

        def alive():
            check(launcher.running(), f'it ended:\n{launcher.tail()}')
            return self.probe('liveness')[0] == 200
        wait_for('alive: the launcher', alive, 30)
        took = time.monotonic() - began
        status, body = self.probe('readiness')
        check(status == 503, f'/ready answers {status}: {body}')
        return f'alive after {took:.1f} s'

    def ready(self):
        """With a ZooKeeper of the component's configuration, by TLS, it is ready."""
        # That of the image's version, where tests/setup operator has fetched it; else Debian's.
        [image] = [c['image'] for c in self.zookeeper['spec']['template']['spec']['containers']]
        classes = CACHE / f'zookeeper-{image.rpartition(":")[2]}'
        if classes.exists():
            version, mounts, command = classes.name, [(classes, '/opt/zookeeper', True)], zookeeper_command('/opt/zookeeper')
        else:
            version, mounts, command = "Debian's", [], zookeeper_command('/usr/share/java')
        zookeeper = self.started['zookeeper'] = self.container(self.zookeeper, 'zookeeper', command=command, more=mounts)
        zookeeper.start()

        def is_ready():
            check(zookeeper.running(), f'ZooKeeper ended:\n{zookeeper.tail()}')
            return self.probe('readiness')[0] == 200
        try:
            wait_for('ready: the launcher', is_ready, 60)
        except TimeoutError as error:
            raise TimeoutError(f'{error}: {self.probe("readiness")}\n{zookeeper.tail(10)}') from None
        return version

    def builds(self):
        """The builder builds the image, the launcher has a node of it, and `nodepool` in the containers says so."""
        self.container(self.builder, 'directories').whole()
        builder = self.started['builder'] = self.container(self.builder, 'builder')
        builder.start()
        launcher = self.started['launcher']

        def has(container, command, *words):
            # It may be in the making still.
            lines = container.attempt('nodepool', command).stdout.splitlines()
            return any(all(word in line for word in words) for line in lines)

        def built():
            check(builder.running(), f'the builder ended:\n{builder.tail()}')
            return has(builder, 'dib-image-list', 'trial-image', 'ready')
        wait_for('ready in dib-image-list: trial-image', built, 60, 0.5)
        wait_for('ready in list: a node of trial-cloud', lambda: has(launcher, 'list', 'trial-cloud', 'ready'), 60, 0.5)
        status, body = self.probe('readiness')
        check(status == 200 and body.strip() == 'OK', f'/ready: {status} {body}')

    def ssh(self):
        """In the builder OpenSSH takes the secret's key, and keeps known hosts on the volume."""
        builder = self.started['builder']
        asked = builder.exec('ssh', '-G', 'image-builder.example.org').splitlines()
        for line in 'identityfile /var/lib/nodepool-ssh-key/priv', 'userknownhostsfile /var/lib/nodepool/known_hosts':
            check(line in asked, f'no `{line}` in ssh -G')
        public = builder.exec('ssh-keygen', '-y', '-f', '/var/lib/nodepool-ssh-key/priv')
        check(public.split()[1] in (self.directory / 'key.pub').read_text(), public)

    def configuration_changes(self):
        """A changed ConfigMap counts without a restart."""
        config_map = self.volumes.config_maps['nodepool-launcher-config']
        config = yaml.safe_load(config_map['nodepool.yaml'])
        config['labels'].append({'name': 'second-label'})
        config['providers'][0]['pools'][0]['labels'].append(
            {'name': 'second-label', 'diskimage': 'trial-image', 'min-ram': 8192})
        # Its clouds.yaml is not there yet.
        config['providers'].append({'name': 'late', 'driver': 'openstack', 'cloud': 'late', 'pools': [
            {'name': 'main', 'labels': []}]})
        self.volumes.projected['nodepool-launcher', 'config'].update({'nodepool.yaml': yaml.safe_dump(config)})
        port = self.ports['web']
        began = time.monotonic()
        wait_for('known: second-label', lambda: 'second-label' in get(f'http://127.0.0.1:{port}/label-list')[1], 20)
        return f'after {time.monotonic() - began:.1f} s'

    def secret_changes(self):
        """A secret that comes late is found without a restart."""
        lacking = 'there is no clouds.yaml'
        wait_for(f'said by /ready: {lacking}', lambda: lacking in self.probe('readiness')[1], 30)
        self.volumes.projected['nodepool-launcher', 'providers'].update({'clouds.yaml': yaml.safe_dump({'clouds': {
            'late': {'auth': {'auth_url': 'http://127.0.0.1:9/v3', 'username': 'u', 'password': 'p', 'project_name': 'p',
                              'user_domain_name': 'd', 'project_domain_name': 'd'}}}})})
        began = time.monotonic()
        wait_for('asked: the cloud of clouds.yaml', lambda: '127.0.0.1:9' in self.probe('readiness')[1], 30)
        return f'after {time.monotonic() - began:.1f} s'

    def plays(self):
        """Playbooks from the ConfigMap of image sources make images, one named in nodepool.yaml, one by our own keys beside it."""
        builder = self.started['builder']
        sources = self.volumes.config_maps['nodepool-image-sources']
        self.volumes.projected['nodepool-builder', 'image-sources'].update({
            **sources, 'inventory.yaml': yaml.safe_dump({'all': {'hosts': {'localhost': {'ansible_connection': 'local'}}}}),
            'played.yaml': yaml.safe_dump([{'hosts': 'localhost', 'gather_facts': False, 'tasks': [
                {'ansible.builtin.command': 'truncate --size 1M {{ image_output }}.qcow2'}]}])})
        config = yaml.safe_load(self.volumes.config_maps['nodepool-builder-config']['nodepool.yaml'])
        config['diskimages'].append({'name': 'played-image', 'formats': ['qcow2'],
                                     'dib-cmd': '/usr/local/bin/dib-ansible played.yaml'})
        config['diskimages'].append({'name': 'extended-image', 'formats': ['qcow2']})
        extensions = {'diskimages': [{'name': 'extended-image', 'ansible': {'playbook': 'played.yaml'}}]}
        self.volumes.projected['nodepool-builder', 'config'].update({
            'nodepool.yaml': yaml.safe_dump(config), 'nodepool-extensions.yaml': yaml.safe_dump(extensions)})

        def line(image):
            lines = builder.exec('nodepool', 'dib-image-list').splitlines()
            return next((line for line in lines if image in line), '')
        for image in 'played-image', 'extended-image':
            wait_for(f'built: {image}', lambda: 'ready' in line(image) or 'failed' in line(image), 60, 0.5)
            check('ready' in line(image), builder.exec('nodepool', 'build-log', image)[-2000:])

    def stops(self):
        """SIGTERM ends launcher and builder with status 0, long before the kubelet would kill them."""
        took = []
        for which in 'builder', 'launcher':
            container = self.started[which]
            check(container is not None and container.running(), f'the {which} is not running')
            began = time.monotonic()
            status = container.stop()
            seconds = time.monotonic() - began
            check(status == 0, f'the {which} ended with {status} after {seconds:.0f} s:\n{container.tail()}')
            check(seconds < container.grace / 2, f'the {which} took {seconds:.0f} s of {container.grace}')
            took.append(f'{which} {seconds:.1f} s')
        return ', '.join(took)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for which in 'builder', 'launcher', 'zookeeper':
            if which in self.started:
                self.started[which].__exit__()
        self.runtime.close()


def checks(counts, objects, directory, images):
    trial = counts.made("The pods' volumes and secrets, by `zookeeper-certificates`", Trial, objects, directory, images)
    if trial:
        with trial:
            # Ansible is in the images only.
            counts.each(trial.starts, trial.ready, trial.builds, trial.ssh, trial.configuration_changes, trial.secret_changes,
                        *([trial.plays] if images else []), trial.stops)
