"""The real OpenStack of tests/services/openstack, as the interop scenarios use it.

Each scenario has a project of its own there: what is in it is ours, so that "nothing left" is a plain listing, and its
quota is nobody else's. The launcher reaches every service through a fault proxy, which counts; the scenario itself,
and what it does in another user's place, goes straight to the services.
"""
import concurrent.futures
import json
import os
import pathlib
import subprocess
import time
import uuid

from harness import TESTS, wait_for
from harness.faults import FaultProxy, answer
from world import FAILED, FULFILLED, Skip, check, passed

CLOUDS = pathlib.Path(os.environ.get('NP_OPENSTACK_DIR', '/var/lib/np-openstack')) / 'clouds.yaml'
SERVICES = TESTS / 'services/openstack'
UPSTREAMS = {
    'identity': 'http://127.0.0.1:5000/v3', 'compute': 'http://127.0.0.1:8774/v2.1', 'image': 'http://127.0.0.1:9292',
    'network': 'http://127.0.0.1:9696', 'block_storage': 'http://127.0.0.1:8776/v3',
}
# Short, so that what leaked is gone while a scenario looks.
OFTEN = ['--cleanup-interval', '5', '--delete-interval', '1']

# Seconds between two looks at the servers: each list takes Nova and Neutron as much time as a good part of a boot.
LOOK = 0.5

# Names of servers that are none of ours.
OTHERS = 'other-'

# What a withdrawn request leaves becomes ready, and is gone soon.
NOT_KEPT = {'max-ready-age': 20}


def ctl(*arguments):
    """A fault of the cloud itself, which everybody on this machine feels."""
    subprocess.run([SERVICES / 'ctl', *arguments], check=True, stdout=subprocess.DEVNULL)


# With the Python of the services, which has their client of the message bus. A message that is neither acknowledged nor
# refused is on the queue again when the connection ends.
LOSE_CREATIONS = '''
import amqp
with amqp.Connection('127.0.0.1:15673', userid='np', password='np-service') as connection:
    channel = connection.channel()
    lost = 0
    while message := channel.basic_get('conductor'):
        if 'schedule_and_build_instances' in str(message.body):
            channel.basic_ack(message.delivery_tag)
            lost += 1
print(lost)
'''


def lose_creations():
    """While Nova's conductor is away: the creations that its API has accepted, and that wait for it, are forgotten."""
    done = subprocess.run(['/usr/bin/python3', '-c', LOSE_CREATIONS], check=True, capture_output=True, text=True)
    check(int(done.stdout) > 0, 'no creation waited for nova-conductor')


def connect(username, password, project):
    import openstack
    return openstack.connect(
        load_yaml_config=False, load_envvars=False, region_name='RegionOne', auth_type='password',
        auth={'auth_url': UPSTREAMS['identity'], 'username': username, 'password': password, 'project_name': project,
              'user_domain_id': 'default', 'project_domain_id': 'default'})


def start(stack):
    """Starts the OpenStack of this machine if it is installed and down; it is stopped again with `stack`."""
    if CLOUDS.exists() and subprocess.run([SERVICES / 'status'], stdout=subprocess.DEVNULL).returncode:
        subprocess.run([SERVICES / 'up'], check=True, stdout=subprocess.DEVNULL)
        stack.callback(subprocess.run, [SERVICES / 'down'], stdout=subprocess.DEVNULL)


class Cloud:
    """A project in it, gone with the scenario."""

    def __init__(self, world, instances=-1):
        if not CLOUDS.exists():
            raise Skip('no OpenStack: tests/setup openstack && tests/services/openstack/up')
        start(world.stack)
        self.world = world
        self.name = f'np-interop-{uuid.uuid4().hex[:8]}'
        self.admin = connect('admin', 'np-admin', 'admin')
        identity = self.admin.identity
        self.project = identity.create_project(name=self.name, domain_id='default')
        world.stack.callback(self._remove)
        self._users = []
        self._add_user(self.name)
        self.quota(instances)
        self._put(self.admin.network, f'/quotas/{self.project.id}', {'quota': {'port': -1, 'floatingip': -1}})
        self._put(self.admin.block_storage, f'/os-quota-sets/{self.project.id}',
                  {'quota_set': {'volumes': -1, 'gigabytes': -1}})
        self.proxies = {name: world.stack.enter_context(FaultProxy(url, world.directory / f'{self.name}-{name}.log'))
                        for name, url in UPSTREAMS.items()}
        self._clouds_yaml = world.directory / f'{self.name}.yaml'
        self._write_clouds_yaml()
        self.env = {'OS_CLIENT_CONFIG_FILE': str(self._clouds_yaml)}

    def _add_user(self, name):
        """The one that the scenario and, once clouds.yaml names it, the launcher are from now on."""
        identity = self.admin.identity
        user = identity.create_user(name=name, domain_id='default', password='np-secret')
        self._users.append(user)
        for role in ('member', 'reader'):
            identity.assign_project_role_to_user(self.project, user, identity.find_role(role))
        self.own = connect(name, 'np-secret', self.name)

    def _write_clouds_yaml(self):
        aside = self._clouds_yaml.with_suffix('.new')
        aside.write_text(json.dumps({'clouds': {'npcloud': self.settings()}}))
        aside.rename(self._clouds_yaml)

    def change_credentials(self):
        """As a site does it: another user, whom clouds.yaml names; some seconds later the old one and its tokens are void."""
        [old] = self._users
        self._add_user(f'{self.name}-new')
        self._write_clouds_yaml()
        time.sleep(3)  # files are looked at once a second
        self.admin.identity.update_user(old, is_enabled=False)

    @staticmethod
    def _put(service, path, data):
        reply = service.put(path, json=data)
        check(reply.status_code == 200, f'PUT {path}: {reply.status_code} {reply.text}')

    def quota(self, instances):
        self._put(self.admin.compute, f'/os-quota-sets/{self.project.id}',
                  {'quota_set': {'instances': instances, 'cores': -1, 'ram': -1}})

    def settings(self):
        """For a clouds.yaml: every service through its proxy."""
        urls = {name: proxy.url for name, proxy in self.proxies.items()}
        return {
            'region_name': 'RegionOne', 'identity_api_version': 3,
            'auth': {'auth_url': urls['identity'], 'username': self._users[-1].name, 'password': 'np-secret',
                     'project_name': self.name, 'user_domain_name': 'Default', 'project_domain_name': 'Default'},
            # openstacksdk takes loopback addresses for private ones.
            'networks': [{'name': 'private-v4only', 'routes_externally': True}],
            **{f'{name}_endpoint_override': urls[name] for name in ('compute', 'image', 'network')},
            'block_storage_endpoint_override': f'{urls["block_storage"]}/{self.project.id}',
        }

    def provider(self, name=None, servers=100, labels=('np-tiny',), properties=None, **more):
        """np-tiny: an address and no more; np-public: a floating IP; np-volume: on a volume of its own."""
        base = {'cloud-image': 'cirros-np', 'flavor-name': 'np.tiny', 'instance-properties': properties or {}}
        pools = []
        for kind in labels:
            label = {'name': kind, **base}
            # Addresses are loopback addresses here, which upstream takes for private ones.
            pool = {'name': kind, 'networks': ['private-v4only'], 'auto-floating-ip': False}
            if kind == 'np-public':
                pool.update({'networks': ['private'], 'auto-floating-ip': True})
            if kind == 'np-volume':
                label.update({'boot-from-volume': True, 'volume-size': 1})
            pools.append({'max-servers': servers, 'host-key-checking': False, **pool, 'labels': [label]})
        return {
            'name': name or self.name, 'driver': 'openstack', 'cloud': 'npcloud', 'region-name': 'RegionOne',
            'launch-timeout': 900, 'launch-retries': 3,
            # A port is DOWN for a while before its server has it: on a busy machine, for half a minute.
            'port-cleanup-interval': 60, 'clean-floating-ips': True,
            'cloud-images': [{'name': 'cirros-np', 'username': 'cirros'}], 'pools': pools, **more,
        }

    def launcher(self, *providers, stem='openstack', python=None, often=True, env=None):
        """With `often` it looks for leaks every few seconds, so that a scenario need not wait for it."""
        python = self.world.python if python is None else python
        labels = sorted({label['name'] for p in providers for pool in p['pools'] for label in pool['labels']})
        config = self.world.write_config(stem, labels, list(providers), label=NOT_KEPT)
        return self.world.launcher(config, python=python, env={**self.env, **(env or {})},
                                   arguments=OFTEN if often and not python else [])

    def servers(self):
        """Ours and, where a scenario makes some, the other user's."""
        return self.own.compute.get('/servers/detail?limit=1000', microversion='2.1').json()['servers']

    def images(self, provider=None):
        """Glance's documents by their ids, of one provider's uploads."""
        images = self.own.image.get(f'/images?owner={self.project.id}&limit=1000').json()['images']
        return {i['id']: i for i in images if provider in (None, i.get('nodepool_provider_name'))}

    def our_servers(self):
        return [s for s in self.servers() if 'nodepool_node_id' in s['metadata']]

    def left(self):
        """What is in the project: names of kinds with ids."""
        network, mine = self.own.network, f'project_id={self.project.id}'
        found = {
            'servers': self.our_servers(),
            'ports': [p for p in network.get(f'/ports?{mine}').json()['ports']
                      if p['device_id'] not in self._others],
            'floating IPs': network.get(f'/floatingips?{mine}').json()['floatingips'],
            'volumes': self.own.block_storage.get('/volumes').json()['volumes'],
            'images': list(self.images().values()),
        }
        return {kind: [item['id'] for item in items] for kind, items in found.items() if items}

    _others = frozenset()

    def other_user(self, count):
        """Somebody else in the same project makes servers, one after another; their ids."""
        return self.other_users(count, at_once=1)()

    def other_users(self, count, at_once=None):
        """Makes ready that others in the project make servers, all at once: when what this returns is called."""
        image = self.own.image.find_image('cirros-np').id
        flavor = self.own.compute.find_flavor('np.tiny').id
        network = self.own.network.find_network('private-v4only').id

        def one(index):
            reply = self.own.compute.post('/servers', json={'server': {
                'name': f'{OTHERS}{index}', 'imageRef': image, 'flavorRef': flavor, 'networks': [{'uuid': network}],
                'metadata': {'purpose': 'none of ours'}}})
            return reply.json()['server']['id'] if reply.status_code == 202 else None

        def make():
            with concurrent.futures.ThreadPoolExecutor(at_once or count) as users:
                ids = set(filter(None, users.map(one, range(count))))
            self._others = self._others | ids
            return ids
        return make

    def delete_servers(self, ids):
        for server in ids:
            self.own.compute.delete(f'/servers/{server}')

    def fate(self, server):
        """As admin, to play a hypervisor that fails: BUILD or ACTIVE becomes ERROR."""
        self.admin.compute.post(f'/servers/{server}/action', json={'os-resetState': {'state': 'error'}})

    def lost_to_quota(self):
        """How many servers, of ours and of others, Nova has ever accepted and then sent to ERROR for lack of quota.

        From its database: its API tells no faults of servers that are gone.
        """
        query = ('select distinct i.uuid, i.display_name from instance_faults f join instances i on i.uuid = '
                 f"f.instance_uuid where i.project_id = '{self.project.id}' and f.message like '%uota exceeded%'")
        rows = subprocess.run([SERVICES / 'sql', 'nova_cell1', query], check=True, capture_output=True, text=True)
        names = [row.split('\t')[1] for row in rows.stdout.splitlines()]
        others = sum(name.startswith(OTHERS) for name in names)
        return len(names) - others, others

    def refuse_tokens(self):
        """Nova knows none of the tokens that a launcher has shown it so far; how many."""
        tokens = self.proxies['compute'].calls()['tokens']
        self.proxies['compute'].rules(*({'path': '**', 'with': {'x-auth-token': token}, 'fault': answer(401)}
                                        for token in tokens))
        return len(tokens)

    def revoke(self):
        """The same by Keystone itself, for every service."""
        tokens = self.proxies['compute'].calls()['tokens']
        for token in tokens:
            self.admin.identity.delete('/auth/tokens', headers={'X-Subject-Token': token})
        return len(tokens)

    def forget_calls(self):
        for proxy in self.proxies.values():
            proxy.forget()

    def clear(self):
        for proxy in self.proxies.values():
            proxy.clear()

    def calls(self):
        """{'compute POST /v2.1/servers': {'202': 10}, …}, of all services."""
        return {f'{name} {call}': ends for name, proxy in self.proxies.items()
                for call, ends in proxy.calls()['calls'].items()}

    def faults(self):
        return sum(proxy.calls()['faults'] for proxy in self.proxies.values())

    def _remove(self):
        """Whatever a failed scenario has left goes with the project."""
        own = getattr(self, 'own', None)
        if own is not None:
            wait_for('deleted: all servers of the scenario', self._all_deleted, 300, 1)
            for address in own.network.ips(project_id=self.project.id):
                own.network.delete_ip(address)
            for port in own.network.ports(project_id=self.project.id):
                own.network.delete_port(port)
            for volume in own.block_storage.volumes():
                own.block_storage.delete_volume(volume)
            for image in self.images():
                own.image.delete(f'/images/{image}')
        for group in self.admin.network.security_groups(project_id=self.project.id):
            self.admin.network.delete_security_group(group)
        self.admin.compute.delete(f'/os-quota-sets/{self.project.id}')
        for user in getattr(self, '_users', ()):
            self.admin.identity.delete_user(user)
        self.admin.identity.delete_project(self.project)

    def _all_deleted(self):
        servers = self.servers()
        self.delete_servers(s['id'] for s in servers if s.get('OS-EXT-STS:task_state') != 'deleting')
        return not servers


def answered(world, requests, timeout):
    """Until each request has ended: the fulfilled ones' node sets, locked, and the reasons of the others."""
    served, reasons = [], []
    for request, nodeset in requests:
        done = world.zuul.wait(request, timeout)
        if done.state == FULFILLED:
            world.zuul.accept(done, nodeset)
            served.append(nodeset)
            continue
        check(done.state == FAILED, f'request {request.id} ended {done.state}')
        record = json.loads(world.zuul.zk.kazoo_client.get(f'/nodepool/requests/{request.id}')[0])
        said = '; '.join(record.get('decline_reasons') or [])
        check(said or world.python, f'request {request.id} failed without a reason on its record')
        reasons.append(said)
        world.zuul.nodepool.cancelRequest(done)
    return served, reasons


def give_back(world, nodesets):
    for nodeset in nodesets:
        world.zuul.use(nodeset)
        world.zuul.give_back(nodeset)


def nothing_left(world, cloud, timeout=180):
    """The end of every scenario: no record, and nothing of ours in the cloud."""
    world.zuul.wait_until_empty(timeout)
    try:
        wait_for('nothing left in the cloud', lambda: not cloud.left(), timeout, 1)
    except TimeoutError as error:
        raise AssertionError(f'left in the cloud: {cloud.left()}') from error


def serve(world, cloud, labels, timeout=600, meanwhile=None):
    """One request for each label at once; what happens meanwhile; then the end of every scenario."""
    requests = [world.zuul.request([label]) for label in labels]
    if meanwhile:
        meanwhile()
    served, reasons = answered(world, requests, timeout)
    give_back(world, served)
    cloud.clear()
    nothing_left(world, cloud)
    tell(served, reasons, cloud)
    return served, reasons


def tell(served, reasons, cloud):
    why = f' ({"; ".join(sorted(set(reasons)))[:300]})' if reasons else ''
    passed(f'{len(served)} fulfilled, {len(reasons)} failed{why}; {cloud.faults()} calls met a fault; nothing left')
