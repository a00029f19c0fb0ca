"""What scenarios with pods, namespaces or projects share: the API server of tests/services/kube and what is looked up there.

The cluster is started for the first scenario that needs it and serves them all; each works in namespaces of its own.
"""
import atexit
import json
import tempfile

from harness import records, wait_for
from harness.kube import Kube
from world import Skip

_shared = []


def cluster():
    """The one cluster of this run."""
    if not _shared:
        if why := Kube.missing():
            raise Skip(f'no Kubernetes here: {why}')
        directory = tempfile.TemporaryDirectory(prefix='np-kube-')
        _shared.extend((Kube(directory.name).start(), directory))
        atexit.register(end)
    return _shared[0]


def end():
    if _shared:
        _shared[0].stop()
        _shared[1].cleanup()
        _shared.clear()


def provider(name, labels, driver='openshiftpods', pool=None, context='pods', **more):
    """`labels`: by name, what each says beside it."""
    defaults = {'image': 'registry.example/image:1'}
    if driver != 'openshiftpods':
        defaults['type'] = 'pod'
    entries = [{'name': label, **({} if 'spec' in own else defaults), **own} for label, own in labels.items()]
    return {'name': name, 'driver': driver, 'context': context, **more,
            'pools': [{'name': pool or name, 'labels': entries}]}


def pools(world):
    """What each registered pool says of itself."""
    client = world.zuul.zk.kazoo_client
    found = (records.read(client, f'components/pool/{name}') for name in records.children(client, 'components/pool'))
    return [pool for pool in found if pool]


def all_registered(world, providers):
    """A request that prefers a provider is anybody's before that provider is known."""
    wait_for('registered: every provider', lambda: {p['provider_name'] for p in pools(world)} >= set(providers))


def reasons(world, request):
    data, _ = world.zuul.zk.kazoo_client.get(f'/nodepool/requests/{request.id}')
    return ' '.join(json.loads(data).get('decline_reasons', []))


def finish(world, done, nodeset):
    """Uses the nodes and gives them back."""
    world.zuul.accept(done, nodeset)
    world.zuul.use(nodeset)
    world.zuul.give_back(nodeset)


def marks(item):
    """The labels of an object; of a project, which OpenShift gives none, what its description says."""
    description = item['metadata'].get('annotations', {}).get('openshift.io/description', '')
    said = json.loads(description) if description.startswith('{') else {}
    return {**said, **item['metadata'].get('labels', {})}


def objects_of(kube, providers):
    """The pods and namespaces that carry one of the providers' names."""
    return [item for path in ('/api/v1/pods', '/api/v1/namespaces') for item in kube.items(path)
            if marks(item).get('nodepool_provider_name') in providers]


def left(kube, providers):
    return [item['metadata']['name'] for item in objects_of(kube, providers)]
