"""What goes wrong with pods and namespaces: refusals, troubles that pass, ends that nobody asked for, an API that is away."""
import collections
import time

from harness import records, wait_for
from harness.kube import OPERATOR_RULES
from on_kube import all_registered, cluster, finish, left, provider, reasons
from world import FAILED, FULFILLED, Skip, check, passed


def pods_refusals(world):
    """What a cluster refuses and what becomes of pods: the reason is on the request, and the launcher goes on."""
    if world.python:
        raise Skip('Python Nodepool writes no reason')
    kube = cluster()
    for name in 'refusals', 'tight', 'locked':
        kube.namespace(name)
    token = kube.service_account('refusals', 'nodepool-sa', [
        *OPERATOR_RULES, {'apiGroups': [''], 'resources': ['events'], 'verbs': ['list']}])
    tight = kube.service_account('tight', 'nodepool-sa', OPERATOR_RULES)
    locked = kube.service_account('locked', 'nodepool-sa', [
        {'apiGroups': [''], 'resources': ['pods'], 'verbs': ['get', 'list', 'watch', 'delete']}])
    kube.call('POST', '/api/v1/namespaces/tight/resourcequotas', {
        'metadata': {'name': 'compute'}, 'spec': {'hard': {'requests.cpu': '2', 'pods': '10'}}})
    wait_for('reckoned: the quota', lambda: kube.items('/api/v1/namespaces/tight/resourcequotas')[0]['status'].get('used'))
    kubeconfig = kube.kubeconfig(world.directory / 'kubeconfig', {
        'pods': token, 'tight': tight, 'locked': locked, 'expired': 'not-a-token', 'nowhere': kube.admin_token()})

    def life(what):
        return {'annotations': {'pod-life': what}}
    lives = {
        'good': ({}, []),
        'image-pull': (life('image-pull'), ['ImagePullBackOff', 'registry.example/image:1', 'not found', 'Failed to pull image']),
        'crash-loop': (life('crash-loop'), ['ends again and again', 'exit code 1', 'BackOff']),
        'evict': (life('evict'), ['Evicted', 'low on resource']),
        'exit': (life('exit'), ['ended by itself', 'exit code 0']),
        'stuck': (life('stuck'), ['ContainerCreating', 'FailedMount', 'configmap "missing" not found']),
        'not-ready': (life('not-ready'), ['containers with unready status']),
        'config-error': (life('config-error'), ['CreateContainerConfigError', 'secret "x" not found']),
        'unschedulable': ({'cpu': 99999}, ['Unschedulable', 'Insufficient cpu']),
        'no-account': ({'spec': {'serviceAccountName': 'nobody', 'containers': [{'name': 'c', 'image': 'i'}]}},
                       ['serviceaccount "nobody" not found']),
        'bad-image': ({'image': ''}, ['spec.containers[0].image', 'Required value']),
        'Bad_Name': ({}, ['Bad_Name', 'Kubernetes refuses']),
    }
    # The launch's time is that of what never comes.
    launch = {'launch-timeout': 40, 'launch-retries': 1}
    providers = [
        provider('refusals', {label: own for label, (own, _) in lives.items()}, **launch),
        provider('locked', {'locked': {}}, context='locked', **launch),
        provider('nowhere', {'nowhere': {}}, context='nowhere', **launch),
        provider('expired', {'expired': {}}, context='expired', **launch),
        provider('unknown', {'unknown': {}}, context='not-there', **launch),
        provider('tight', {'too-large': {'cpu': 3}, 'fits': {'cpu': 2}}, context='tight', **launch),
    ]
    expected = {label: words for label, (_, words) in lives.items()} | {
        'locked': ['locked', 'cannot create resource', 'pods'],
        'nowhere': ['namespaces "nowhere" not found', 'create namespace nowhere first'],
        'expired': ['refuses the credentials', '401'],
        'unknown': ['there is no context `not-there`', 'it has: pods, tight, locked, expired, nowhere'],
        'too-large': ['exceeded quota: compute', 'requests.cpu=3', 'limited: requests.cpu=2'],
    }
    config = world.write_config('refusals', expected | {'fits': None}, providers)
    launcher = world.launcher(config, env={'KUBECONFIG': str(kubeconfig)})
    requests = {label: world.zuul.request([label]) for label in expected}
    # Two that fit one after the other: the second waits, it does not fail.
    fitting = [world.zuul.request(['fits']) for _ in range(2)]
    for label, (request, nodeset) in requests.items():
        done = world.zuul.wait(request, 120)
        said = reasons(world, request)
        if not expected[label]:
            check(done.state == FULFILLED, f'{label}: {done.state}: {said}')
            finish(world, done, nodeset)
            continue
        check(done.state == FAILED, f'{label}: {done.state}')
        world.zuul.zk.deleteNodeRequest(request.id)
        for word in expected[label]:
            check(word in said, f'{label}: no {word!r} in: {said}')
        passed(f'{label}: {said}')
    served = wait_for('served: one of two that fit one at a time',
                      lambda: [f for f in fitting if f[0].id in world.zuul.provisioned()])
    check(len(served) == 1, 'both were served beyond the quota')
    time.sleep(3)  # the other waits
    waiting = next(f for f in fitting if f not in served)
    check(world.zuul.zk.getNodeRequest(waiting[0].id).state in ('pending', 'requested'), 'it did not wait')
    for request, nodeset in (*served, waiting):
        done = world.zuul.wait(request, 60)
        check(done.state == FULFILLED, f'fits: {done.state}: {reasons(world, request)}')
        finish(world, done, nodeset)
    passed('a quota that is used up: the second request waited for the first')
    request, nodeset = world.zuul.request(['good'])
    done = world.zuul.wait(request)
    check(done.state == FULFILLED, 'the launcher does not go on')
    finish(world, done, nodeset)
    world.zuul.wait_until_empty(60)
    wait_for('empty: the cluster', lambda: not left(kube, [p['name'] for p in providers]), 60)
    check(launcher.stop() == 0, 'it did not end with status 0')


def pods_gone(world):
    """Ready nodes whose pod is deleted, evicted, or whose namespace is removed: noticed, never handed out, replaced."""
    if world.python:
        raise Skip('Python Nodepool hands them out')
    kube = cluster()
    kube.namespace('gone')
    kubeconfig = kube.kubeconfig(world.directory / 'kubeconfig', {'admin': kube.admin_token()})
    providers = [provider('gone', {'gone-pod': {}}, context='admin'),
                 provider('gone-kube', {'gone-namespace': {}}, driver='kubernetes', context='admin')]
    config = world.write_config('gone', ['gone-pod', 'gone-namespace'], providers, label={'min-ready': 1})
    launcher = world.launcher(config, env={'KUBECONFIG': str(kubeconfig)}, arguments=['--cleanup-interval', '1'])
    client = world.zuul.zk.kazoo_client

    def ready(label, other_than=None):
        return next((node for node, record in records.nodes(client).items() if node != other_than
                     and record['state'] == 'ready' and record['type'] == [label]), None)

    def evict(name):
        path = f'/api/v1/namespaces/gone/pods/{name}'
        pod = kube.call('GET', path)
        pod['status'].update(phase='Failed', reason='Evicted', message='The node was low on resource: memory.')
        kube.call('PUT', f'{path}/status', pod)
    for what, end in ('deleted', lambda name: kube.call('DELETE', f'/api/v1/namespaces/gone/pods/{name}')), ('evicted', evict):
        node = wait_for('ready: a pod', lambda: ready('gone-pod'), 60)
        end(f'gone-pod-{node}')
        started = time.monotonic()
        wait_for('replaced: the pod', lambda: node not in records.nodes(client) and ready('gone-pod', node), 60)
        passed(f'a ready pod that was {what}: replaced within {time.monotonic() - started:.1f} s')
    # A namespace is noticed by the search for leaks, and counts once the node has been ready for half a minute.
    node = wait_for('ready: a namespace', lambda: ready('gone-namespace'), 60)
    kube.call('DELETE', f'/api/v1/namespaces/gone-kube-{node}')
    wait_for('replaced: the namespace', lambda: node not in records.nodes(client) and ready('gone-namespace', node), 90)
    check(launcher.log.read_text().count('Deleting node: it has gone while it waited') == 3, 'not for that reason')
    passed('a namespace that was deleted: replaced')


def pods_blips(world):
    """What passes by itself fails no request: an image registry that is away, a secret that comes late, a crash, a webhook
    that cannot be called."""
    if world.python:
        raise Skip('Python Nodepool hands out what only runs')
    kube = cluster()
    kube.namespace('blips')
    token = kube.service_account('blips', 'nodepool-sa', OPERATOR_RULES)
    kubeconfig = kube.kubeconfig(world.directory / 'kubeconfig', {'pods': token, 'admin': kube.admin_token()})
    lives = 'image-pull', 'config-error', 'crash-loop'
    labels = {f'blip-{life}': {'annotations': {'pod-life': f'{life}=40'}} for life in lives}
    # One attempt: what counts as one fails the request.
    providers = [provider('blips', {**labels, 'blip-webhook': {}}, **{'launch-retries': 1, 'launch-timeout': 120}),
                 provider('blips-kube', {'blip-namespace': {}}, driver='kubernetes', context='admin', **{'launch-retries': 1})]
    config = world.write_config('blips', [*labels, 'blip-webhook', 'blip-namespace'], providers)
    world.launcher(config, env={'KUBECONFIG': str(kubeconfig)})
    all_registered(world, ['blips', 'blips-kube'])
    hooks = '/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations'
    here = {'matchExpressions': [{'key': 'kubernetes.io/metadata.name', 'operator': 'In', 'values': ['blips']}]}
    hook = {'clientConfig': {'url': 'https://127.0.0.1:1/'}, 'sideEffects': 'None', 'admissionReviewVersions': ['v1'],
            'failurePolicy': 'Fail', 'timeoutSeconds': 1}
    kube.call('POST', hooks, {'metadata': {'name': 'blips'}, 'webhooks': [
        {**hook, 'name': 'pods.blips.example', 'namespaceSelector': here, 'rules': [
            {'apiGroups': [''], 'apiVersions': ['v1'], 'operations': ['CREATE'], 'resources': ['pods']}]},
        {**hook, 'name': 'namespaces.blips.example', 'rules': [
            {'apiGroups': [''], 'apiVersions': ['v1'], 'operations': ['CREATE'], 'resources': ['namespaces']}]}]})
    _, position = kube.audit()
    requests = {label: world.zuul.request([label]) for label in [*labels, 'blip-webhook', 'blip-namespace']}

    def refused():
        entries, _ = kube.audit(position)
        failed = [e for e in entries if 'failed calling webhook' in e['responseStatus'].get('message', '')]
        return len({e['objectRef']['resource'] for e in failed}) == 2 and len(failed) > 8
    wait_for('refused: pods and namespaces, more than once', refused, 60)
    kube.call('DELETE', f'{hooks}/blips')
    for label, (request, nodeset) in requests.items():
        done = world.zuul.wait(request, 120)
        check(done.state == FULFILLED, f'{label}: {done.state}: {reasons(world, request)}')
        finish(world, done, nodeset)
    world.zuul.wait_until_empty(60)
    passed(f'{len(requests)} requests fulfilled, each with a trouble that passed')


def pods_api_killed(world, count=100):
    """The API server is killed and comes back in the middle of a hundred launches."""
    if world.python:
        raise Skip('Python Nodepool loses launches here')
    kube = cluster()
    kube.namespace('killed')
    token = kube.service_account('killed', 'nodepool-sa', OPERATOR_RULES)
    kubeconfig = kube.kubeconfig(world.directory / 'kubeconfig', {'pods': token, 'admin': kube.admin_token()})
    slow = {'annotations': {'pod-life': 'slow=3'}}
    providers = [provider('killed', {'killed': slow}),
                 provider('killed-kube', {'killed-kube': slow}, driver='kubernetes', context='admin')]
    config = world.write_config('killed', ['killed', 'killed-kube'], providers)
    world.launcher(config, env={'KUBECONFIG': str(kubeconfig)})
    requests = [world.zuul.request(['killed' if i % 10 else 'killed-kube']) for i in range(count)]
    there = wait_for('created: some pods', lambda: len(pods := kube.pods('killed')) > 20 and
                     {p['metadata']['uid'] for p in pods}, 60)
    kube.kill_api()
    started = time.monotonic()
    time.sleep(8)  # away
    kube.start_api()
    served = [world.zuul.wait(request, 300) for request, _ in requests]
    check(all(r.state == FULFILLED for r in served), f'{collections.Counter(r.state for r in served)}: ' + next(
        (reasons(world, r) for r in served if r.state != FULFILLED), ''))
    took = time.monotonic() - started
    survived = there & {p['metadata']['uid'] for p in kube.pods('killed')}
    check(len(survived) == len(there), f'{len(there) - len(survived)} of {len(there)} pods that were there were given up')
    for done, (_, nodeset) in zip(served, requests):
        finish(world, done, nodeset)
    world.zuul.wait_until_empty(300)
    wait_for('empty: the cluster', lambda: not left(kube, ['killed', 'killed-kube']), 120)
    passed(f'{count} of {count} fulfilled {took:.0f} s after the kill, all {len(there)} pods that were there served; none left')


SCENARIOS = (pods_refusals, pods_blips, pods_gone, pods_api_killed)
