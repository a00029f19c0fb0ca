"""Our launcher on a real OpenStack: what it serves, how fast, and what it asks of the cloud for it."""
import json
import pathlib
import statistics
import subprocess
import threading
import time

from cloud import LOOK, OFTEN, Cloud, answered, give_back, nothing_left
from harness import free_port, records, wait_for
from harness.services import Process
from world import FAILED, FULFILLED, Skip, check, fake_provider, passed

# Calls of a node's whole life, Keystone's included, that ours may cost where fifty come at once.
CALLS_PER_NODE = 8


class Sshd:
    """Plays the sshd of the first server that appears: its address is a loopback address of this machine."""

    def __init__(self, world, cloud, port):
        self.world, self.cloud, self.port = world, cloud, port
        self.directory = world.directory / 'sshd'
        self.directory.mkdir()
        self.keys = set()
        for kind in ('ed25519', 'ecdsa', 'rsa'):
            path = self.directory / kind
            subprocess.run(['ssh-keygen', '-q', '-N', '', '-t', kind, '-f', path], check=True)
            self.keys.add(' '.join(path.with_suffix('.pub').read_text().split()[:2]))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        world.stack.callback(self._thread.join)
        world.stack.callback(self._stop.set)

    def _run(self):
        while not self._stop.wait(0.2):
            addresses = [a['addr'] for s in self.cloud.servers() for n in s['addresses'].values() for a in n]
            if addresses:
                break
        else:
            return
        pathlib.Path('/run/sshd').mkdir(exist_ok=True)
        command = ['/usr/sbin/sshd', '-D', '-e', '-f', '/dev/null', '-o', f'ListenAddress={addresses[0]}',
                   '-p', self.port, '-o', 'PidFile=none', '-o', 'UsePAM=no']
        for kind in ('ed25519', 'ecdsa', 'rsa'):
            command += ['-h', self.directory / kind]
        with Process(command, self.directory / 'sshd.log'):
            self._stop.wait()


def openstack_one(world):
    cloud = Cloud(world)
    provider = cloud.provider()
    provider['cloud-images'][0]['connection-port'] = port = free_port()
    provider['pools'][0]['host-key-checking'] = True
    sshd = Sshd(world, cloud, port)
    cloud.launcher(provider)
    request, nodeset = world.zuul.request(['np-tiny'])
    done = world.zuul.wait(request, 300)
    check(done.state == FULFILLED, f'the request ended {done.state}')
    [server] = cloud.servers()
    world.zuul.accept(done, nodeset)
    world.zuul.use(nodeset)
    [node] = nodeset.getNodes()
    address = server['addresses']['private-v4only'][0]['addr']
    check(node.interface_ip == address, f'interface_ip is {node.interface_ip}, the server has {address}')
    check(server['metadata']['nodepool_node_id'] == node.id, server['metadata'])
    check(node.username == 'cirros' and node.connection_port == port, vars(node))
    check(set(node.host_keys) == sshd.keys, f'host keys {node.host_keys}, the sshd has {sshd.keys}')
    passed(f'{len(sshd.keys)} host keys were scanned')
    check(node.resources == {'cores': 1, 'instances': 1, 'ram': 512}, node.resources)
    passed(f'server {server["id"]} at {address} was locked and used by Zuul as node {node.id}')
    time.sleep(3)
    check(cloud.servers(), 'the server was deleted while Zuul used its node')
    world.zuul.give_back(nodeset)
    nothing_left(world, cloud)
    passed('given back, deleted, nothing left')


def wrong_password(world):
    if world.python:
        raise Skip('Python Nodepool writes no reason')
    cloud = Cloud(world)
    clouds = world.directory / 'wrong.yaml'
    right = pathlib.Path(cloud.env['OS_CLIENT_CONFIG_FILE']).read_text()
    clouds.write_text(right.replace('np-secret', 'not-the-password'))
    providers = [cloud.provider(), fake_provider('other-cloud', ['other'])]
    launcher = world.launcher(world.write_config('password', ['np-tiny', 'other'], providers),
                              env={'OS_CLIENT_CONFIG_FILE': str(clouds)})
    served, _ = world.zuul.request(['other'])
    refused, _ = world.zuul.request(['np-tiny'])
    check(world.zuul.wait(served, 30).state == FULFILLED, 'the other provider did not serve')
    check(world.zuul.wait(refused, 60).state == FAILED, 'a request for the refused cloud did not fail')
    data, _ = world.zuul.zk.kazoo_client.get(f'/nodepool/requests/{refused.id}')
    reasons = ' '.join(json.loads(data)['decline_reasons'])
    for word in (cloud.name, 'npcloud', '401'):
        check(word in reasons, f'no {word} in the reasons: {reasons}')
        check(word in launcher.tail(), f'no {word} in the log: {launcher.tail()}')
    check('not-the-password' not in launcher.tail(), 'the password is in the log')
    passed(f'the other provider served, and the record says: {reasons}')


def counted(world, cloud, count, python=False, meanwhile=None):
    """So many requests at once, from the launcher's start to the last deletion; the cloud calls that a node cost.

    `meanwhile`: what happens when a fifth of the servers are there.
    """
    name = 'Python Nodepool 11.0.0' if python else 'ours'
    cloud.forget_calls()
    launcher = cloud.launcher(cloud.provider(servers=count, **{'port-cleanup-interval': 600}), python=python,
                              often=False, stem=f'openstack-{"python" if python else "ours"}')
    started = time.monotonic()
    requests = [world.zuul.request(['np-tiny']) for _ in range(count)]
    if meanwhile:
        wait_for('in the cloud: a fifth of the servers', lambda: len(cloud.our_servers()) >= count / 5, 300,
                 LOOK)
        meanwhile()
        check(len(world.zuul.provisioned()) < count, 'all was over before it happened')
    served, reasons = answered(world, requests, 1200)
    boot = time.monotonic() - started
    check(len(served) == count, f'{len(reasons)} of {count} requests failed: {set(reasons)}')
    nodes = {node.id for nodeset in served for node in nodeset.getNodes()}
    check(len(nodes) == count, f'{len(nodes)} different nodes for {count} requests')
    servers = {s['metadata']['nodepool_node_id'] for s in cloud.our_servers()}
    check(servers == nodes, f'servers of {servers ^ nodes} do not match the nodes')
    started = time.monotonic()
    give_back(world, served)
    nothing_left(world, cloud, 600)
    calls = cloud.calls()
    total = sum(sum(ends.values()) for ends in calls.values())
    passed(f'{name}: {count} of {count} fulfilled in {boot:.0f} s, each with a server of its own; deleted in '
           f'{time.monotonic() - started:.0f} s, nothing left; {total} cloud calls, {total / count:.1f} per node')
    for call, ends in sorted(calls.items(), key=lambda item: -sum(item[1].values())):
        passed(f'  {sum(ends.values()):5} {call} {ends}')
    check(launcher.running(), 'it has ended')
    launcher.stop()
    return total / count


def openstack_fifty(world):
    cloud = Cloud(world)
    if world.python:
        counted(world, cloud, 50)
        return
    # A site's clouds.yaml changes in the middle: no request may fail for it.
    ours = counted(world, cloud, 50, meanwhile=cloud.change_credentials)
    theirs = counted(world, cloud, 12, python=True)
    passed(f'cloud calls per node: ours {ours:.1f} (50 at once), Python Nodepool 11.0.0 {theirs:.1f} '
           '(12 at once: 50 would take too long)')
    check(ours <= CALLS_PER_NODE, f'{ours:.1f} cloud calls per node, {CALLS_PER_NODE} are allowed')


def openstack_two_hundred(world):
    calls = counted(world, Cloud(world), 200)
    check(world.python or calls <= CALLS_PER_NODE, f'{calls:.1f} cloud calls per node, {CALLS_PER_NODE} are allowed')


def openstack_quota(world):
    """The pool may have more servers than the cloud allows: only the cloud's quota is in the way."""
    cloud = Cloud(world, instances=3)
    cloud.launcher(cloud.provider(servers=50))
    waiting = dict((request.id, (request, nodeset)) for request, nodeset in
                   (world.zuul.request(['np-tiny']) for _ in range(40)))
    started, served, most = time.monotonic(), 0, 0
    while waiting and time.monotonic() < started + 300:
        for request_id in world.zuul.provisioned() & waiting.keys():
            nodesets, reasons = answered(world, [waiting.pop(request_id)], 10)
            check(not reasons, f'a request failed: {reasons}')
            give_back(world, nodesets)
            served += 1
        most = max(most, len(cloud.our_servers()))
        time.sleep(0.5)
    took = time.monotonic() - started
    for request, _ in waiting.values():
        world.zuul.nodepool.cancelRequest(request)
    # What was being made for withdrawn requests is finished first.
    nothing_left(world, cloud, 600)
    posts = cloud.calls().get('compute POST /v2.1/servers', {})
    refused = sum(posts.get(status, 0) for status in ('403', '413'))
    errors, _ = cloud.lost_to_quota()
    passed(f'{served} of 40 requests served at a quota of 3 in {took:.0f} s, at most {most} servers; POST /servers '
           f'ended {posts}; {errors} servers in ERROR for quota')
    check(served >= 20, f'only {served} requests served in {took:.0f} s')
    share = (refused + errors) / max(1, sum(posts.values()))
    check(share < 0.01, f'{100 * share:.1f} % of the creations went beyond the quota')


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def latencies(client, label, count):
    """One request after another, each seen fulfilled by a watch; in seconds."""
    taken = []
    for _ in range(count):
        changed = threading.Event()
        started = time.perf_counter()
        request_id = records.submit(client, [label])
        path = f'/nodepool/requests/{request_id}'
        while True:
            changed.clear()
            state = json.loads(client.get(path, watch=lambda _: changed.set())[0])['state']
            if state in ('fulfilled', 'failed'):
                break
            check(changed.wait(600), f'request {request_id} did not change in 600 s')
        taken.append(time.perf_counter() - started)
        check(state == 'fulfilled', f'request {request_id} failed')
        records.release(client, request_id)
    return taken


def in_turns(world, cloud, client, label, count, rounds):
    """Rounds without and with a hang of the other provider's cloud, for which requests wait; two lists."""
    alone, beside = [], []
    for _ in range(rounds):
        alone += latencies(client, label, count)
        before = cloud.faults()
        for proxy in cloud.proxies.values():
            proxy.rules({'path': '**', 'fault': {'hang': 3600}})
        waiting = [world.zuul.request(['np-tiny']) for _ in range(5)]
        wait_for('hanging: a call of the other provider', lambda before=before: cloud.faults() > before, 60)
        beside += latencies(client, label, count)
        for request, _ in waiting:
            world.zuul.nodepool.cancelRequest(world.zuul.zk.getNodeRequest(request.id))
        cloud.clear()
        for proxy in cloud.proxies.values():
            proxy.down()
            proxy.up()
        # What the requests have left is gone before the next round: it would take part of the machine.
        nothing_left(world, cloud, 600)
    return alone, beside


def compared(what, alone, beside):
    """Says both; the share of those beside a hanging provider that took 20 % more than nearly all took without it."""
    figures = [[1000 * f(values) for f in (statistics.median, lambda v: percentile(v, .99))]
               for values in (alone, beside)]
    (p50, p99), (p50_beside, p99_beside) = figures
    passed(f'{what}: n={len(alone)} + {len(beside)}, p50 {p50:.1f} ms, {p50_beside:.1f} ms beside a hanging provider; '
           f'p99 {p99:.1f} ms, {p99_beside:.1f} ms ({100 * (p99_beside / p99 - 1):+.0f} %)')
    slower = sum(1000 * value > 1.2 * p99 for value in beside) / len(beside)
    return p50_beside / p50, slower


def hanging_provider(world):
    cloud = Cloud(world)
    healthy = Cloud(world)
    script = world.directory / 'fake.json'
    script.write_text(json.dumps({'*': {'boot_delay': 0.1, 'quota': {'cores': -1, 'instances': -1, 'ram': -1}}}))
    clouds = world.directory / 'both.yaml'
    clouds.write_text(json.dumps({'clouds': {'npcloud': cloud.settings(), 'healthy': healthy.settings()}}))
    real = healthy.provider(labels=['np-healthy'], cloud='healthy')
    config = world.write_config('hanging', ['fast', 'np-tiny', 'np-healthy'],
                                [fake_provider('fast-cloud', ['fast']), real, cloud.provider()],
                                # What each round's withdrawn requests leave in the cloud is waited for.
                                label={'max-ready-age': 2})
    env = {'OS_CLIENT_CONFIG_FILE': str(clouds), 'NODEPOOL_FAKE_CLOUD_SCRIPT': str(script)}
    world.launcher(config, python=False, env=env, arguments=OFTEN)
    # Zuul changes kazoo for its own clients; others hear of no change beside them.
    client = world.zuul.zk.kazoo_client
    latencies(client, 'fast', 10)
    # In turns, so that what else this machine does meets both sides alike.
    median, slower = compared('fake cloud', *in_turns(world, cloud, client, 'fast', 70, 3))
    latencies(client, 'np-healthy', 1)
    compared('two real clouds (for information)', *in_turns(world, cloud, client, 'np-healthy', 2, 1))
    nothing_left(world, healthy)
    check(median < 1.2, f"the healthy provider's median is {100 * (median - 1):.0f} % higher beside a hanging one")
    # One in a hundred is expected, and a few more may come by chance. Of a launcher that waits for the hanging cloud, all
    # requests take seconds.
    check(slower < 0.04, f'{100 * slower:.1f} % took 20 % longer than 99 % did without a hanging provider beside them')


SCENARIOS = (openstack_one, openstack_fifty, wrong_password, openstack_quota, hanging_provider)
# Not among those that run by themselves.
BY_NAME = (openstack_two_hundred,)
