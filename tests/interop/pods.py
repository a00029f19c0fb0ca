"""Nodes that are pods, namespaces or projects, on the real API server of tests/services/kube.

tests/pods.md says which of upstream's driver tests each scenario covers.
"""
import base64
import collections
import copy
import json
import os
import subprocess
import textwrap
import time

import yaml

from harness import UPSTREAM, binary, records, wait_for
from harness.kube import OPERATOR_RULES
from on_kube import all_registered, cluster, finish, left, marks, objects_of, pools, provider, reasons
from world import FAILED, FULFILLED, Skip, check, passed

FIXTURES = UPSTREAM / 'nodepool/tests/fixtures'
RESOURCE = {'openshiftpods': 'pods', 'openshift': 'namespaces', 'kubernetes': 'namespaces'}


# Beside Python.

# What differs from one node to the next, or is made anew each time.
FRESH = {'state_time', 'created_time', 'launcher', 'allocated_to', 'id', '_locked', '_zk'}


def fixtures():
    """The providers of upstream's own test configurations, each under a name of its own; and their tenants' limits."""
    providers, tenants = {}, []
    for path in sorted(FIXTURES.glob('*.yaml')):
        driver, _, variant = path.stem.partition('-')
        if driver not in RESOURCE or variant == 'leaked-node':
            continue
        # The fixtures are templates of str.format.
        text = path.read_text()
        text = ''.join(line for line in text.splitlines(True) if '{zookeeper' not in line)
        config = yaml.safe_load(text.replace('{{', '{').replace('}}', '}'))
        one = copy.deepcopy(config['providers'][0])
        one['name'] = f'{driver}-{variant or "main"}'
        for pool in one['pools']:
            for label in pool['labels']:
                if label.get('type') != 'project' and label.get('type') != 'namespace' and 'spec' not in label:
                    # Some name none, which a real API refuses too.
                    label.setdefault('image', 'docker.io/fedora:28')
                if 'gpu' in label:
                    # A real API refuses a fraction of what is not cpu, memory or storage.
                    label['gpu'] = 1.0
        providers[one['name']] = one
        for tenant in config.get('tenant-resource-limits', []):
            if variant.startswith('tenant'):
                tenants.append({**tenant, 'tenant-name': one['name']})
    return providers, tenants


def plain(value, words):
    """The same with what is different each time under a common name."""
    if isinstance(value, dict):
        return {plain(k, words): plain(v, words) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(item, words) for item in value]
    if isinstance(value, str):
        for word, common in words:
            value = value.replace(word, common)
    return value


def observed(entries, node):
    """What was created for a node, by path, as the API server understood it."""
    made = {}
    for entry in entries:
        if entry['verb'] != 'create' or entry['responseStatus']['code'] >= 300 or node not in entry['requestURI'] + json.dumps(
                entry.get('requestObject', {})):
            continue
        body = copy.deepcopy(entry.get('requestObject'))
        if entry['objectRef']['resource'] in ('events', 'subjectaccessreviews') or body is None:
            continue
        # Ours says there what OpenShift drops of the labels.
        body.pop('description', None)
        body.get('metadata', {}).get('annotations', {}).pop('openshift.io/description', None)
        made[f'{entry["objectRef"]["resource"]} {entry["requestURI"].split("?")[0]}'] = body
    return made


def pods_as_python(world):
    """Ours and Python Nodepool 11.0.0, one after the other, on upstream's own configurations: the same records of nodes
    and the same objects in the cluster."""
    if world.python:
        raise Skip('runs both')
    kube = cluster()
    kube.namespace('main')
    token = kube.service_account('main', 'nodepool-sa', OPERATOR_RULES)
    kubeconfig = kube.kubeconfig(world.directory / 'kubeconfig', {
        'service-account.local': token, 'admin-cluster.local': kube.admin_token()})
    providers, _ = fixtures()
    providers = {name: one for name, one in providers.items() if name.endswith(('-main', '-resources', '-limits'))}
    labels = sorted({label['name'] for one in providers.values() for pool in one['pools'] for label in pool['labels']})
    seen = {}
    for python in False, True:
        who = 'python' if python else 'ours'
        config = world.write_config(who, labels, list(providers.values()))
        launcher = world.launcher(config, python=python, env={'KUBECONFIG': str(kubeconfig)})
        all_registered(world, providers)
        _, position = kube.audit()
        requests = {}
        for name, one in providers.items():
            for pool in one['pools']:
                for label in pool['labels']:
                    requests[name, label['name']] = world.zuul.request([label['name']], provider=name)
        found = {}
        for key, (request, nodeset) in requests.items():
            done = world.zuul.wait(request, 120)
            check(done.state == FULFILLED, f'{who}: {key}: {done.state}: {reasons(world, request)}\n{launcher.tail()}')
            (node,) = done.nodes
            record = json.loads(world.zuul.zk.kazoo_client.get(f'/nodepool/nodes/{node}')[0])
            found[key] = (node, record)
            world.zuul.accept(done, nodeset)
            world.zuul.use(nodeset)
        entries, _ = kube.audit(position)
        for key, (node, record) in found.items():
            if not python:
                # Which cluster it was made in: Python does not say.
                known = record['driver_data']
                check(known.keys() == {'cluster', 'server'} and known['server'].startswith('https://'), f'{key}: {known}')
                record['driver_data'] = None
            words = [(node, 'NODE'), (record['provider'], 'PROVIDER')]
            record = {k: v for k, v in record.items() if k not in FRESH}
            for port in 'connection_port', 'ssh_port':
                if not key[0].startswith('openshiftpods'):
                    check(record[port]['token'].count('.') == 2, f'{who}: {key}: no token')
                    record[port] = {**record[port], 'token': 'TOKEN'}
            seen.setdefault(key, {})[who] = plain(record, words), plain(observed(entries, node), words)
        for request, nodeset in requests.values():
            world.zuul.give_back(nodeset)
        world.zuul.wait_until_empty(120)
        wait_for('empty: the cluster', lambda: not left(kube, providers), 120)
        check(launcher.stop() == 0, f'{who} did not end with status 0')
    for key, both in seen.items():
        (ours, our_objects), (theirs, their_objects) = both['ours'], both['python']
        check(ours == theirs, f'{key}: the records differ: ' + difference(ours, theirs))
        # Of OpenShift's service accounts upstream waits for the secret, ours brings one along.
        extra = {path for path in our_objects if path.startswith('secrets ')}
        ours_only = {path: body for path, body in our_objects.items() if path not in extra}
        check(ours_only == their_objects, f'{key}: the objects differ: ' + difference(ours_only, their_objects))
    ours = seen['openshiftpods-main', 'pod-fedora']['ours'][0]
    check(ours['connection_port']['token'] == token, 'not the token of the kubeconfig')
    check(ours['host_id'] == 'k8s-default-pool-abcd-1234', ours['host_id'])
    kinds = collections.Counter(name.split('-')[0] for name, _ in seen)
    passed(f'{len(seen)} labels of {len(providers)} providers ({dict(kinds)}): records and objects are equal')


def difference(ours, theirs):
    keys = [k for k in {*ours, *theirs} if ours.get(k, '-') != theirs.get(k, '-')]
    return '; '.join(f'{k}: ours {json.dumps(ours.get(k, "-"))}, theirs {json.dumps(theirs.get(k, "-"))}' for k in keys)


# Limits.

def pods_quotas(world):
    """Upstream's pool and tenant limits, all at once: two requests are served, the third waits until those are back."""
    kube = cluster()
    providers, tenants = fixtures()
    providers = {name: one for name, one in providers.items() if '-quota-' in name}
    for name, one in providers.items():
        # Each its own namespace.
        one['pools'][0]['name'] = name
        one['context'] = 'admin'
        if name.startswith('openshiftpods'):
            kube.namespace(name)
    kubeconfig = kube.kubeconfig(world.directory / 'kubeconfig', {'admin': kube.admin_token()})
    labels = sorted({label['name'] for one in providers.values() for pool in one['pools'] for label in pool['labels']})
    config = world.write_config('quotas', labels, list(providers.values()), **{'tenant-resource-limits': tenants})
    world.launcher(config, env={'KUBECONFIG': str(kubeconfig)})
    all_registered(world, providers)

    def request(name):
        (label,) = (label['name'] for label in providers[name]['pools'][0]['labels'])
        return request_as(world, name if 'tenant' in name else 'tenant', [label], name)
    first = {name: [request(name) for _ in range(2)] for name in providers}
    done = {name: [(ended(world, r, 90), nodeset) for r, nodeset in two] for name, two in first.items()}
    for name, two in done.items():
        check(all(d.state == FULFILLED for d, _ in two), f'{name}: {[d.state for d, _ in two]}')
    third = {name: request(name) for name in providers}
    pooled = {name for name in providers if '-pool-' in name}

    def paused():
        return {p['provider_name'] for p in pools(world) if p.get('paused')} >= pooled
    if not world.python:
        wait_for('paused: every pool at its limit', paused, 30)
    time.sleep(2)  # nothing happens for a while
    for name, (r, _) in third.items():
        state = world.zuul.zk.getNodeRequest(r.id).state
        check(state in ('requested', 'pending'), f'{name}: the third request is {state}')
        check(name in pooled or state == 'requested', f'{name}: a tenant at its limit has a request {state}')
    for two in done.values():
        for d, nodeset in two:
            finish(world, d, nodeset)
    for name, (r, nodeset) in third.items():
        d = ended(world, r, 120)
        check(d.state == FULFILLED, f'{name}: the third request is {d.state}: {reasons(world, r)}')
        finish(world, d, nodeset)
    world.zuul.wait_until_empty(120)
    wait_for('empty: the cluster', lambda: not left(kube, providers), 120)
    passed(f'{len(providers)} configurations: the third request waited, and was served')


def request_as(world, tenant, labels, provider_name):
    """A request of another tenant than the scenarios' usual one."""
    import zuul_client
    usual, zuul_client.TENANT = zuul_client.TENANT, tenant
    try:
        return world.zuul.request(labels, provider=provider_name)
    finally:
        zuul_client.TENANT = usual


def ended(world, request, timeout):
    """Of a tenant whose queue of events nobody reads."""
    return wait_for(f'completed: request {request.id}',
                    lambda: (r := world.zuul.zk.getNodeRequest(request.id)).state in (FULFILLED, FAILED) and r, timeout)


def pods_leaked(world):
    """Upstream's test_kubernetes_leaked_node, and the same for pods: what no record knows goes, others' stays."""
    if world.python:
        raise Skip('upstream has it for kubernetes only')
    kube = cluster()
    kube.namespace('leaks')
    kube.call('POST', '/api/v1/namespaces/leaks/pods', {'metadata': {'name': 'theirs-0000000001', 'labels': {
        'nodepool_provider_name': 'theirs', 'nodepool_node_id': '0000000001'}}, 'spec': {'containers': [
            {'name': 'c', 'image': 'i'}]}})
    kubeconfig = kube.kubeconfig(world.directory / 'kubeconfig', {'admin': kube.admin_token()})
    providers = [provider('leaks', {'leaky-pod': {}}, context='admin'),
                 provider('leaky-kube', {'leaky-namespace': {}}, driver='kubernetes', context='admin'),
                 provider('leaky-shift', {'leaky-project': {}}, driver='openshift', context='admin')]
    config = world.write_config('leaks', ['leaky-pod', 'leaky-namespace', 'leaky-project'], providers,
                                label={'min-ready': 1})
    world.launcher(config, env={'KUBECONFIG': str(kubeconfig)}, arguments=['--cleanup-interval', '1'])

    def ready():
        """The ids, once there is a node of each."""
        nodes = records.nodes(world.zuul.zk.kazoo_client)
        return set(nodes) if len(nodes) == 3 and all(n['state'] == 'ready' for n in nodes.values()) else None
    before = wait_for('ready: a node of each', ready, 60)
    for node in before:
        world.zuul.zk.kazoo_client.delete(f'/nodepool/nodes/{node}', recursive=True)

    def replaced():
        nodes = ready()
        return nodes and not before & nodes
    wait_for('replaced: the nodes', replaced, 60)

    def of_old_nodes():
        return [item for item in objects_of(kube, ['leaks', 'leaky-kube', 'leaky-shift'])
                if marks(item)['nodepool_node_id'] in before]
    wait_for('gone: what was leaked', lambda: not of_old_nodes(), 60)
    check(ready(), 'a node that was no leak is gone')
    check([p for p in kube.pods('leaks') if p['metadata']['name'] == 'theirs-0000000001'], 'another\'s pod is gone')
    passed('three leaks removed, nothing of others')


# Many.

def pods_many(world, count=500):
    """Five hundred pods at once through one provider: all served, few calls, all deleted. In the middle of them the
    kubeconfig gets another token, and some seconds later the old one is void."""
    kube = cluster()
    kube.namespace('many')
    token = kube.service_account('many', 'nodepool-sa', OPERATOR_RULES)
    kubeconfig = kube.kubeconfig(world.directory / 'kubeconfig', {'pods': token})
    config = world.write_config('many', ['many'], [provider('many', {'many': {}})])
    world.launcher(config, env={'KUBECONFIG': str(kubeconfig)})
    _, position = kube.audit()
    started = time.monotonic()
    requests = [world.zuul.request(['many']) for _ in range(count // 2)]
    if not world.python:
        wait_for('fulfilled: some of the requests', lambda: len(world.zuul.provisioned()) >= count / 10, 120)
        kube.kubeconfig(kubeconfig, {'pods': kube.token('many', 'nodepool-sa', 'second')})
        time.sleep(3)  # files are looked at once a second
    # Some are made while the old token ends, however fast the launcher is.
    requests += [world.zuul.request(['many']) for _ in range(count // 4)]
    if not world.python:
        kube.call('DELETE', '/api/v1/namespaces/many/secrets/nodepool-sa-token')
    requests += [world.zuul.request(['many']) for _ in range(count - len(requests))]
    served = [world.zuul.wait(request, 300) for request, _ in requests]
    check(all(r.state == FULFILLED for r in served), collections.Counter(r.state for r in served))
    took = time.monotonic() - started
    for done, (_, nodeset) in zip(served, requests):
        finish(world, done, nodeset)
    world.zuul.wait_until_empty(300)
    deleted = time.monotonic() - started - took
    check(not kube.pods('many'), 'a pod is left')
    entries, _ = kube.audit(position)
    account = 'system:serviceaccount:many:nodepool-sa'
    # A call whose client was gone before it was authenticated is nobody's in the log.
    calls = collections.Counter(e['verb'] for e in entries if e['user'].get('username') == account)
    each = sum(calls.values()) / count
    passed(f'{count} requests: served in {took:.1f} s, deleted in {deleted:.1f} s, {each:.2f} API calls per pod ({dict(calls)})')
    check(world.python or each <= 4, 'too many calls')


def pods_credentials(world):
    """The kubeconfig changes under a running launcher: another token, an exec plugin, a certificate; the old ones are void."""
    if world.python:
        raise Skip('Python Nodepool reads it once')
    kube = cluster()
    kube.namespace('credentials')
    first = kube.service_account('credentials', 'nodepool-sa', OPERATOR_RULES)
    path = kube.kubeconfig(world.directory / 'kubeconfig', {'pods': first})
    config = world.write_config('credentials', ['changing'], [provider('credentials', {'changing': {}}, **{
        'launch-retries': 1})])
    launcher = world.launcher(config, env={'KUBECONFIG': str(path)})

    def build(token):
        time.sleep(1.1)  # files are looked at once a second
        nodes, _ = world.zuul.whole_build(['changing'])
        check(nodes[0]['connection_port']['token'] == token, 'Zuul was given another token')
        world.zuul.wait_until_empty(60)
    build(first)
    # One that waits while the credentials change, as those do that are made for a time.
    request, nodeset = world.zuul.request(['changing'])
    waiting = world.zuul.wait(request, 60)
    world.zuul.zk.deleteNodeRequest(request.id)
    wait_for('free: the node', lambda: not records.nodes(world.zuul.zk.kazoo_client)[waiting.nodes[0]]['allocated_to'], 30)
    second = kube.token('credentials', 'nodepool-sa', 'second')
    kube.call('DELETE', '/api/v1/namespaces/credentials/secrets/nodepool-sa-token')
    kube.kubeconfig(path, {'pods': second})
    build(second)
    third = kube.token('credentials', 'nodepool-sa', 'third')
    plugin = world.directory / 'plugin'
    plugin.write_text('#!/bin/sh\ncat <<END\n' + json.dumps({
        'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential', 'status': {'token': third}}) + '\nEND\n')
    plugin.chmod(0o755)
    kube.call('DELETE', '/api/v1/namespaces/credentials/secrets/second')
    kube.kubeconfig(path, {'pods': {'exec': {
        'apiVersion': 'client.authentication.k8s.io/v1', 'command': str(plugin), 'interactiveMode': 'Never'}}})
    build(third)
    entry = kube.certificate('credentials', 'carol')
    kube.call('DELETE', '/api/v1/namespaces/credentials/secrets/third')
    kube.kubeconfig(path, {'pods': entry})
    build(None)  # there is no token that Zuul could be given
    check(launcher.running(), 'it has ended')
    passed('served with a token, another token, an exec plugin and a certificate, without a restart')


# What a site makes once.

def pods_namespace(world):
    """`nodepool create openshiftpods-namespace`: with what it has made, and nothing else, a launcher serves pods."""
    if world.python:
        raise Skip('a command of ours and of the operator')
    kube = cluster()
    kube.namespace('sf')
    poor = kube.service_account('sf', 'poor', [])
    here = kube.kubeconfig(world.directory / 'here', {'admin': kube.admin_token(), 'poor': poor})
    # The API server, under an address that is not known to be this machine's only.
    config = json.loads(here.read_text())
    config['clusters'][0]['cluster'].update(server=kube.url.replace('127.0.0.1', '0.0.0.0'), **{'tls-server-name': 'localhost'})
    elsewhere = world.directory / 'elsewhere'
    elsewhere.write_text(json.dumps(config))

    def create(*options, kubeconfig=elsewhere):
        command = [binary('nodepool'), 'create', 'openshiftpods-namespace', '--nodepool-namespace', 'made', *options]
        done = subprocess.run(command, env={**os.environ, 'KUBECONFIG': str(kubeconfig)}, capture_output=True, text=True)
        print('  $ nodepool', *command[1:])
        print(textwrap.indent(done.stderr, '    '), end='')
        return done
    planned = create('--dry-run')
    check(planned.returncode == 0 and not planned.stderr, planned.stderr)
    planned = list(yaml.safe_load_all(planned.stdout))
    refused = create(kubeconfig=here)
    check(refused.returncode == 1 and 'cannot be reached from a launcher' in refused.stderr, 'not refused: a loopback address')
    refused = create('--nodepool-context', 'poor')
    check(refused.returncode == 1 and 'cannot create resource "namespaces"' in refused.stderr, 'not refused: no rights')
    check('made' not in [n['metadata']['name'] for n in kube.namespaces()], 'something was made already')

    kube.call('POST', '/api/v1/namespaces/sf/secrets', {'metadata': {'name': 'nodepool-providers-secrets'}, 'data': {
        'clouds.yaml': 'e30='}})
    secret = '/api/v1/namespaces/sf/secrets/nodepool-providers-secrets'
    made = create('--namespace', 'sf')
    check(made.returncode == 0 and made.stdout == '', f'{made.returncode}: {made.stdout}')
    core, rbac = '/api/v1/namespaces/made', '/apis/rbac.authorization.k8s.io/v1/namespaces/made'
    paths = [core, f'{core}/serviceaccounts/nodepool-sa', f'{rbac}/roles/nodepool-role',
             f'{rbac}/rolebindings/nodepool-rb', f'{core}/secrets/nodepool-token', secret]
    objects = [kube.call('GET', path) for path in paths]
    for plan, found in zip(planned, objects, strict=False):
        check(holds(found, plan), f'made otherwise than planned: {plan} {found}')
    check(objects[-1]['data']['clouds.yaml'] == 'e30=', 'another key of the secret is gone')
    stored = yaml.safe_load(base64.b64decode(objects[-1]['data']['kube.config']))
    check(stored['current-context'] == 'openshiftpods' and stored['contexts'] == [{'name': 'openshiftpods', 'context': {
        'cluster': 'OpenshiftPodsCluster', 'namespace': 'made', 'user': 'nodepool-sa'}}], stored['contexts'])
    again = create('--namespace', 'sf')
    check(again.returncode == 0 and 'already up to date' in again.stderr, 'not idempotent')
    versions = [[o['metadata']['resourceVersion'] for o in some] for some in (objects, [kube.call('GET', p) for p in paths])]
    check(versions[0] == versions[1], f'a second run has changed something: {versions}')

    printed = create('--skip-providers-secrets', '--show-config-template', kubeconfig=here)
    heading, rest = printed.stdout.split('\n', 1)
    document, template = (yaml.safe_load(part) for part in rest.split('Nodepool configuration template:\n'))
    check(heading == 'Provider kubeconfig:' and document['users'] == stored['users'], printed.stdout)
    (world.directory / 'kubeconfig').write_text(json.dumps(document))
    (label,) = template['labels']
    config = world.write_config('made', [label['name']], template['providers'])
    launcher = world.launcher(config, env={'KUBECONFIG': str(world.directory / 'kubeconfig')})
    nodes, _ = world.zuul.whole_build([label['name']])
    check(nodes[0]['connection_port']['namespace'] == 'made', nodes[0])
    world.zuul.wait_until_empty(60)
    check(launcher.stop() == 0, 'it did not end with status 0')
    passed('made, made again without a change, and used by a launcher')


def holds(found, plan):
    """Whether all of `plan` is in `found`."""
    if isinstance(plan, dict):
        return isinstance(found, dict) and all(holds(found.get(key), value) for key, value in plan.items())
    return found == plan


SCENARIOS = (pods_as_python, pods_quotas, pods_leaked, pods_credentials, pods_namespace, pods_many)
