"""The Compose file: read by Compose's own library, and its containers by runc (sandbox.py)."""
import pathlib
import subprocess
import time

import yaml

from checks import DEPLOY, HERE, TESTS, Failure, Skip, check, need_root, run
from harness import wait_for
from harness.services import Process
from pods import get
from sandbox import Container, Runtime, image_name

FILE = DEPLOY / 'compose/compose.yaml'


def read(path=FILE):
    """What Compose makes of a file."""
    built = subprocess.run([HERE / 'build-compose-config'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if built.returncode:
        raise Skip(f'the reader cannot be built here: {built.stderr.strip().splitlines()[-1]}')
    return yaml.safe_load(run(built.stdout.strip(), path).stdout)


def schema(directory):
    """Compose's own library takes the file, and refuses it with a misspelt key."""
    read()
    wrong = directory / 'compose.yaml'
    wrong.write_text(FILE.read_text().replace('    healthcheck:', '    healthchek:'))
    try:
        read(wrong)
    except Failure as refusal:
        check('healthchek' in str(refusal), refusal)
    else:
        raise Failure('it takes `healthchek`')


class Trial:
    def __init__(self, directory, images):
        need_root()
        self.directory = directory
        self.project = read()
        self.runtime = Runtime(directory / 'containers', ['zookeeper'], images)
        # A named volume is root's when it is new.
        self.volumes = {name: directory / 'volumes' / name for name in self.project['volumes']}
        for volume in self.volumes.values():
            volume.mkdir(parents=True)
        self.zookeeper = None
        self.started = {}

    def container(self, which):
        service = self.project['services'][which]
        user, _, group = service['user'].partition(':')
        check(service['cap_drop'] == ['ALL'] and service['security_opt'] == ['no-new-privileges:true'], service)
        mounts = []
        for mount in service['volumes']:
            source = self.volumes[mount['source']] if mount['type'] == 'volume' else mount['source']
            mounts.append((source, mount['target'], mount.get('read_only', False)))
        for target in service.get('tmpfs', []):
            scratch = self.directory / f'{which}-tmpfs'
            scratch.mkdir()
            scratch.chmod(0o1777)
            mounts.append((scratch, target, False))
        return Container(self.runtime, which, [*service['entrypoint'], *service['command']], user=int(user), groups=[int(group)],
                         environment=service.get('environment', {}), mounts=mounts, memory=None,
                         grace=int(service.get('stop_grace_period', '10s').rstrip('s')), capabilities=service.get('cap_add', ()),
                         read_only=service['read_only'], image=image_name(service['image']))

    def runs(self):
        """A new volume gets its directories; the launcher's health check fails while there is no ZooKeeper, then passes."""
        self.container('directories').whole()
        for which in 'launcher', 'builder':
            self.started[which] = self.container(which)
            self.started[which].start()
        launcher, health = self.started['launcher'], self.project['services']['launcher']['healthcheck']['test']
        check(health[0] == 'CMD', health)
        wait_for('served: /metrics', lambda: get('http://127.0.0.1:8005/metrics')[0] == 200, 30)
        check(launcher.attempt(*health[1:]).returncode != 0, 'it is healthy without ZooKeeper')
        self.zookeeper = Process([TESTS / 'services/zookeeper/run', self.directory / 'zookeeper', '2181'],
                                 self.directory / 'zookeeper.log')
        self.zookeeper.start()
        wait_for('healthy: the launcher', lambda: launcher.attempt(*health[1:]).returncode == 0, 60, 0.5)

    def serves(self):
        """Builder and launcher share the simulated cloud: the image that one uploads, the other boots."""
        launcher, builder = self.started['launcher'], self.started['builder']
        wait_for('ready: an image', lambda: 'ready' in builder.exec('nodepool', 'image-list'), 60, 0.5)
        wait_for('ready: a node', lambda: 'ready' in launcher.exec('nodepool', 'list'), 60, 0.5)
        state = (self.volumes['state'] / 'cloud/trial-cloud.json').read_text()
        check('trial-image' in state, state[:300])

    def stops(self):
        """Stopped, both end with status 0 within the file's grace period."""
        took = []
        for which in 'launcher', 'builder':
            began = time.monotonic()
            status = self.started[which].stop()
            check(status == 0, f'the {which} ended with {status}')
            took.append(f'{which} {time.monotonic() - began:.1f} s')
        return ', '.join(took)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for container in self.started.values():
            container.__exit__()
        if self.zookeeper:
            self.zookeeper.stop()
        self.runtime.close()


def checks(counts, directory, images):
    directory = pathlib.Path(directory)
    directory.mkdir()
    counts.run(schema, directory)
    trial = counts.made("The Compose file's containers and volumes", Trial, directory, images)
    if trial:
        with trial:
            counts.each(trial.runs, trial.serves, trial.stops)
