"""Node requests and nodes as Zuul writes and reads them, for scripts that do not need Zuul itself; images as builders do."""
import json
import time
import uuid

ROOT = '/nodepool'


def submit(client, labels, priority=100, provider=None, requestor='tests', tenant=None, relative=0):
    """Writes a node request with every key that Zuul writes; returns its id."""
    data = {
        'requestor': requestor, 'requestor_data': None, 'tenant_name': tenant, 'provider': provider,
        'state': 'requested', 'state_time': time.time(), 'created_time': time.time(), 'relative_priority': relative,
        'node_types': list(labels), 'nodes': [], 'reuse': True, 'declined_by': [], 'event_id': uuid.uuid4().hex,
    }
    path = client.create(f'{ROOT}/requests/{priority:03d}-', json.dumps(data).encode(), sequence=True, makepath=True)
    return path.rsplit('/', 1)[1]


def read(client, path):
    """The record at a path below /nodepool, or None."""
    from kazoo.exceptions import NoNodeError
    try:
        data, _ = client.get(f'{ROOT}/{path}')
    except NoNodeError:
        return None
    return json.loads(data) if data else None


def request(client, request_id):
    return read(client, f'requests/{request_id}')


def nodes(client):
    """Every node record by id."""
    from kazoo.exceptions import NoNodeError
    try:
        ids = client.get_children(f'{ROOT}/nodes')
    except NoNodeError:
        return {}
    found = {i: read(client, f'nodes/{i}') for i in ids}
    return {i: n for i, n in found.items() if n}


def write_node(client, node_id, **changes):
    """Changes a node as Zuul does (which holds its lock)."""
    node = read(client, f'nodes/{node_id}')
    node.update(changes, state_time=time.time())
    client.set(f'{ROOT}/nodes/{node_id}', json.dumps(node).encode())


def release(client, request_id):
    """What Zuul does at the end of a build: its nodes are used, the request is deleted."""
    record = request(client, request_id)
    for node_id in record['nodes']:
        write_node(client, node_id, state='used')
    client.delete(f'{ROOT}/requests/{request_id}', recursive=True)


def children(client, path):
    """Names below a path under /nodepool, without lock directories; none where it is missing."""
    from kazoo.exceptions import NoNodeError
    try:
        return [name for name in client.get_children(f'{ROOT}/{path}') if name != 'lock']
    except NoNodeError:
        return []


def builds(client):
    """Every build record by image and build id."""
    return {key: record for key, record in _build_records(client).items() if record}


def uploads(client):
    """Every upload record by image, build id, provider and number."""
    return {key: record for key, record in _upload_records(client).items() if record}


def empty(client):
    """The keys of builds and uploads without data: what is left where one was locked while it was deleted."""
    return [key for records in (_build_records(client), _upload_records(client))
            for key, record in records.items() if not record and client.exists(_image_path(key))]


def _build_records(client):
    keys = [(image, build) for image in children(client, 'images')
            for build in children(client, f'images/{image}/builds')]
    return {key: read(client, 'images/{}/builds/{}'.format(*key)) for key in keys}


def _upload_records(client):
    keys = [(*key, provider, number) for key in _build_records(client)
            for provider in children(client, 'images/{}/builds/{}/providers'.format(*key))
            for number in children(client, 'images/{}/builds/{}/providers/{}/images'.format(*key, provider))]
    return {key: read(client, 'images/{}/builds/{}/providers/{}/images/{}'.format(*key)) for key in keys}


def _image_path(key):
    return upload_path(key) if len(key) == 4 else f'{ROOT}/images/{key[0]}/builds/{key[1]}'


def upload_path(key):
    """What a node that was made from an upload has as its image_id."""
    return '{}/images/{}/builds/{}/providers/{}/images/{}'.format(ROOT, *key)


def create_node(client, node_id, **fields):
    """A node that some launcher has made."""
    data = {'state': 'ready', 'state_time': time.time(), 'created_time': time.time(), **fields}
    client.create(f'{ROOT}/nodes/{node_id}', json.dumps(data).encode(), makepath=True)
